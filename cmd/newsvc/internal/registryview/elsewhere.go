package registryview

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
)

const (
	strayKeys    = 20_000 // keys that are looked at: an etcd may hold much that is no service
	strayPage    = 2_000
	strayTimeout = 2 * time.Second
)

// Stray is an instance of a service below another prefix.
type Stray struct {
	Prefix string `json:"prefix"`
	Addr   string `json:"addr"`
}

// Elsewhere looks for keys of a service below other prefixes than the one given, sorted by prefix and address. It reads keys
// only, and not more than some thousands of them.
func (r *Registry) Elsewhere(ctx context.Context, prefix, service string) ([]Stray, error) {
	ctx, cancel := context.WithTimeout(ctx, strayTimeout)
	defer cancel()
	var out []Stray
	from, end := "/", clientv3.GetPrefixRangeEnd("/")
	for seen := 0; seen < strayKeys; {
		resp, err := r.cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(strayPage))
		if err != nil {
			return out, err
		}
		for _, kv := range resp.Kvs {
			if s, ok := strayOf(string(kv.Key), service); ok && s.Prefix != prefix {
				out = append(out, s)
			}
		}
		seen += len(resp.Kvs)
		if !resp.More || len(resp.Kvs) == 0 {
			break
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
	slices.SortFunc(out, func(a, b Stray) int {
		if c := strings.Compare(a.Prefix, b.Prefix); c != 0 {
			return c
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	return out, nil
}

// strayOf takes a key apart that ends as those of a service's instances do.
func strayOf(key, service string) (Stray, bool) {
	prefix, addr, ok := strings.Cut(key, "/"+service+"/")
	if !ok || prefix == "" || discovery.CheckPrefix(prefix) != nil {
		return Stray{}, false
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return Stray{}, false
	}
	return Stray{Prefix: prefix, Addr: addr}, true
}
