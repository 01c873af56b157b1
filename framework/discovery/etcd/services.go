package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/framework/discovery"
)

// ServiceCount is one service and how many keys it has.
type ServiceCount struct {
	Service   string
	Instances int
}

// Services returns every service below the prefix that has at least one key, ordered by name. It reads keys only, page
// by page; values are not looked at. Keys that belong to no valid service name are left out. It waits for etcd as long
// as ctx allows but no longer than some seconds for a page, and does not retry.
func (s *Source) Services(ctx context.Context) ([]ServiceCount, error) {
	counts := make(map[string]int)
	err := s.listPages(ctx, s.pairOf(), s.opt.Prefix+"/", func(resp *clientv3.GetResponse) {
		for _, kv := range resp.Kvs {
			if service, _, ok := discovery.ParseKey(s.opt.Prefix, string(kv.Key)); ok {
				counts[service]++
			}
		}
	}, clientv3.WithKeysOnly())
	if err != nil {
		return nil, explain(s.cli, fmt.Sprintf("listing the services below %q", s.opt.Prefix), err)
	}
	out := make([]ServiceCount, 0, len(counts))
	for service, n := range counts {
		out = append(out, ServiceCount{Service: service, Instances: n})
	}
	slices.SortFunc(out, func(a, b ServiceCount) int { return strings.Compare(a.Service, b.Service) })
	return out, nil
}
