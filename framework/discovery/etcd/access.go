package etcd

import (
	"fmt"

	"github.com/newsvc/newsvc/framework/discovery"
)

// Permission is one that a role in etcd needs, for all keys that begin with Prefix.
type Permission struct {
	// Prefix ends with a slash, so that one service never has what belongs to another whose name begins alike.
	Prefix string `json:"prefix"`
	// Write allows writing beside reading.
	Write bool `json:"write"`
}

// Kind is the permission in the words of etcdctl: read or readwrite.
func (p Permission) Kind() string {
	if p.Write {
		return "readwrite"
	}
	return "read"
}

// Access lists what a service needs to find others and to be found, and no more: to write its own instances, and to read
// those of everybody under the prefix. Who has these and nothing else can't announce an address for another service, nor
// take one away.
func Access(prefix, service string) ([]Permission, error) {
	if err := discovery.CheckPrefix(prefix); err != nil {
		return nil, fmt.Errorf("the permissions of %q: %w", service, err)
	}
	if err := discovery.CheckService(service); err != nil {
		return nil, err
	}
	return []Permission{
		{Prefix: discovery.ServicePrefix(prefix, service), Write: true},
		{Prefix: prefix + "/"},
	}, nil
}
