package faulttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// closeTimeout bounds how long Close waits for a process that it killed.
const closeTimeout = 10 * time.Second

// LabOptions say where a lab's processes come from. The zero value serves a program that calls [Main] itself.
type LabOptions struct {
	// Binary is the program that is started for every process; it must call [Main] first. Empty means the program that
	// runs. A plain build of a small program is better than a test binary with the race detector: etcd is slow in that.
	Binary string
	// Dir holds what the processes write, each below its own name. Empty means a temporary directory that Close removes.
	Dir string
	// Log receives what the processes log, line by line with their names. Nil means nobody; errors show the last lines
	// in any case.
	Log io.Writer
	// Adapters are the implementations that servers and clients may be of.
	Adapters []Adapter
}

// Lab owns processes, proxies and files. Whatever it started is gone after Close, and with the process that holds the
// lab, however that ends. Its methods may be called from any goroutine.
type Lab struct {
	binary   string
	dir      string
	temp     bool
	log      io.Writer
	adapters []Adapter
	ctx      context.Context // the life of the lab
	cancel   context.CancelFunc

	mu        sync.Mutex
	closed    bool
	numbers   map[string]int
	processes map[*Process]struct{}
	closers   []func() error // run backwards, after the processes are gone
}

// NewLab makes a lab; it starts nothing. The caller must Close it.
func NewLab(opt LabOptions) (*Lab, error) {
	lab := &Lab{binary: opt.Binary, dir: opt.Dir, adapters: opt.Adapters, numbers: map[string]int{}, processes: map[*Process]struct{}{}}
	if lab.binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("make a lab: find the program that runs: %w", err)
		}
		lab.binary = self
	}
	if opt.Log != nil {
		lab.log = &lockedWriter{w: opt.Log}
	}
	if lab.dir == "" {
		dir, err := os.MkdirTemp("", "newsvc-faulttest-")
		if err != nil {
			return nil, fmt.Errorf("make a lab: %w", err)
		}
		lab.dir, lab.temp = dir, true
	}
	if err := lab.absolute(); err != nil {
		return nil, fmt.Errorf("make a lab: %w", err)
	}
	lab.ctx, lab.cancel = context.WithCancel(context.Background())
	return lab, nil
}

// absolute makes the paths independent of the working directory, which is another one for the processes.
func (lab *Lab) absolute() (err error) {
	if lab.binary, err = filepath.Abs(lab.binary); err != nil {
		return err
	}
	lab.dir, err = filepath.Abs(lab.dir)
	return err
}

// Dir returns the directory that holds what the processes write.
func (lab *Lab) Dir() string { return lab.dir }

// Adapter returns the adapter of that name.
func (lab *Lab) Adapter(name string) (Adapter, error) { return adapterNamed(lab.adapters, name) }

// subdir makes a directory of its own for what is called name; of two with one name the second gets another.
func (lab *Lab) subdir(name string) (string, error) {
	dir := filepath.Join(lab.dir, lab.number(name))
	return dir, os.MkdirAll(dir, 0o700)
}

// number makes a name that the lab has not used before.
func (lab *Lab) number(name string) string {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	lab.numbers[name]++
	return fmt.Sprintf("%s-%d", strings.ReplaceAll(name, "/", "-"), lab.numbers[name])
}

// own closes something at the end of the lab; at once, when that has come.
func (lab *Lab) own(closer func() error) error {
	lab.mu.Lock()
	if !lab.closed {
		lab.closers = append(lab.closers, closer)
		lab.mu.Unlock()
		return nil
	}
	lab.mu.Unlock()
	return errors.Join(errors.New("the lab is closed"), closer())
}

// forget is told of processes that have ended and are of no interest any more.
func (lab *Lab) forget(p *Process) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	delete(lab.processes, p)
}

// Close kills every process of the lab, also frozen ones, waits until they are gone, closes what else the lab owns and
// removes its directory when that is a temporary one. Later calls do nothing.
func (lab *Lab) Close() error {
	lab.mu.Lock()
	if lab.closed {
		lab.mu.Unlock()
		return nil
	}
	lab.closed = true
	closers := lab.closers
	lab.mu.Unlock()

	lab.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var errs []error
	for p := range lab.processes { // nobody adds to them any more
		errs = append(errs, p.end(ctx))
	}
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	if lab.temp {
		errs = append(errs, os.RemoveAll(lab.dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the lab: %w", err)
	}
	return nil
}
