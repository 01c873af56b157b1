//go:build unix

package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipe that nobody writes to stands for a file server that does not answer.
func TestAFileThatHangsKeepsNobodyFromStopping(t *testing.T) {
	t.Parallel()
	r, dir := reloader(t, "server: {timeout: 1s}\n")
	takes(r, "server")
	outcomes, stop := run(t, r, 10*time.Millisecond)
	name := filepath.Join(dir, "config.yaml")
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for hung := false; !hung; {
		select {
		case out := <-outcomes:
			hung = out.State.Refused != nil && strings.Contains(out.State.Refused.Error(), "takes longer than") && strings.Contains(out.State.Refused.Error(), name)
		case <-limit.C:
			t.Fatal("nobody says that the file hangs")
		}
	}
	go func() { defer close(stopped); stop() }()
	select {
	case <-stopped:
	case <-limit.C:
		t.Error("the stop waits for the file")
	}
	// For the end of whoever reads: writers until nobody waits for one.
	for range 3 {
		if w, err := os.OpenFile(name, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = w.Close()
		}
	}
}
