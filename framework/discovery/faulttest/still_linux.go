package faulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/newsvc/newsvc/framework/internal/backoff"
)

// standsStill waits until every thread of a process that was sent SIGSTOP has stopped.
func standsStill(ctx context.Context, pid int) error {
	for {
		stopped, err := allStopped(pid)
		if err != nil {
			return fmt.Errorf("see whether process %d has stopped: %w", pid, err)
		}
		if stopped {
			return nil
		}
		if err := backoff.Sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("process %d does not stop: %w", pid, err)
		}
	}
}

func allStopped(pid int) (bool, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(tasks) == 0 {
		return false, os.ErrProcessDone
	}
	for _, task := range tasks {
		stat, err := os.ReadFile(task)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			return false, nil // this thread ended meanwhile
		}
		if err != nil {
			return false, err
		}
		// The state follows the name, which stands in parentheses and may contain anything.
		after := stat[bytes.LastIndexByte(stat, ')')+1:]
		if !bytes.HasPrefix(after, []byte(" T")) {
			return false, nil
		}
	}
	return true, nil
}
