package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// saveGap is the least time between two writes of one service's file, so that a storm of changes is one write.
const saveGap = 5 * time.Second

// errFromDisk is why a set is stale as long as the source has not answered.
var errFromDisk = errors.New("the source has not answered yet; these instances are the last good set kept on disk")

// file is the last good set of one service. Values are as in the registry, so both have one codec.
type file struct {
	Service   string            `json:"service"`
	AsOf      time.Time         `json:"as_of"`
	Revision  int64             `json:"revision"`
	Instances []json.RawMessage `json:"instances"`
}

func fileName(dir, service string) string { return filepath.Join(dir, service+".json") }

// load reads a service's file. No file is no error and an unknown update.
func load(dir, service string) (discovery.Update, error) {
	name := fileName(dir, service)
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return discovery.Update{}, nil
	}
	if err != nil {
		return discovery.Update{}, fmt.Errorf("read the last good set of %q: %w", service, err)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return discovery.Update{}, fmt.Errorf("read the last good set of %q from %q: %w", service, name, err)
	}
	if f.Service != service {
		return discovery.Update{}, fmt.Errorf("read the last good set of %q from %q: it is one of %q", service, name, f.Service)
	}
	u := discovery.Update{AsOf: f.AsOf, Revision: f.Revision, Err: errFromDisk}
	for _, value := range f.Instances {
		i, err := discovery.Decode(service, value)
		if err != nil {
			return discovery.Update{}, fmt.Errorf("read the last good set of %q from %q: %w", service, name, err)
		}
		u.Instances = append(u.Instances, i)
	}
	byAddr := func(a, b *discovery.Instance) int { return strings.Compare(a.Addr, b.Addr) }
	slices.SortFunc(u.Instances, byAddr)
	u.Instances = slices.CompactFunc(u.Instances, func(a, b *discovery.Instance) bool { return a.Addr == b.Addr })
	return u, nil
}

// save writes a service's file by rename, so that a reader never meets half of one. A set that is really empty has no
// file: at the next start it would only hold up the news that there is none.
func save(dir, service string, u discovery.Update) error {
	name := fileName(dir, service)
	if len(u.Instances) == 0 {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the last good set of %q: %w", service, err)
		}
		return nil
	}
	f := file{Service: service, AsOf: u.AsOf, Revision: u.Revision, Instances: make([]json.RawMessage, 0, len(u.Instances))}
	for _, i := range u.Instances {
		value, err := discovery.Encode(i)
		if err != nil {
			return fmt.Errorf("keep instance %q of %q on disk: %w", i.Addr, service, err)
		}
		f.Instances = append(f.Instances, value)
	}
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("keep the last good set of %q on disk: %w", service, err)
	}
	if err := replace(dir, name, data); err != nil {
		return fmt.Errorf("keep the last good set of %q on disk: %w", service, err)
	}
	return nil
}

func replace(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, filepath.Base(name)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
