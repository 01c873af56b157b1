package stack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Ready is what a process writes into the file named by NEWSVC_READY_FILE once it serves, and is registered if it
// registers. Whoever starts services reads it instead of parsing logs for ports.
type Ready struct {
	Service     string `json:"service"`
	PID         int    `json:"pid"`
	Incarnation string `json:"incarnation"`
	// GRPC, HTTP and Admin are host:port where this process listens; empty when it does not.
	GRPC  string `json:"grpc"`
	HTTP  string `json:"http"`
	Admin string `json:"admin"`
}

// ReadReady reads a ready file. The error is fs.ErrNotExist's kind while the process is not ready.
func ReadReady(path string) (Ready, error) {
	var r Ready
	raw, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("ready file %q: %w", path, err)
	}
	return r, nil
}

// writeReady makes the file appear whole or not at all.
func writeReady(path string, r Ready) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("ready file %q: %w; does its directory exist?", path, err)
	}
	_, err = tmp.Write(append(raw, '\n'))
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("ready file %q: %w", path, err), os.Remove(tmp.Name()))
	}
	return nil
}

func removeReady(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ready file %q: %w", path, err)
	}
	return nil
}
