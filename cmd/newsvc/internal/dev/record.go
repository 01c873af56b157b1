package dev

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Record is .newsvc/dev.json: what other tools read to find what a running newsvc dev has started.
type Record struct {
	Version  int                      `json:"version"`
	PID      int                      `json:"pid"`
	Root     string                   `json:"root"`
	Etcd     RecordEtcd               `json:"etcd"`
	Services map[string]RecordService `json:"services"`
}

// RecordEtcd is where the services are registered.
type RecordEtcd struct {
	Endpoints []string `json:"endpoints"`
	Prefix    string   `json:"prefix"`
}

// RecordService is one service with the instances that serve.
type RecordService struct {
	Instances []RecordInstance `json:"instances"`
}

// RecordInstance is one child process. Addresses are host:port, empty for listeners it does not have.
type RecordInstance struct {
	PID   int    `json:"pid"`
	GRPC  string `json:"grpc"`
	Admin string `json:"admin"`
	HTTP  string `json:"http"`
}

// RecordPath is where the record of a newsvc dev that was started in root lies.
func RecordPath(root string) string { return filepath.Join(root, stateDir, "dev.json") }

// write makes the record appear whole.
func (r Record) write() error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	path := RecordPath(r.Root)
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
