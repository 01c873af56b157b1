package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/connectivity"

	"github.com/newsvc/newsvc/framework/internal/hedge"
)

// listing is a whole prefix as it was at one revision.
type listing struct {
	kvs      []*mvccpb.KeyValue
	revision int64
	cluster  uint64
}

// listPages reads everything below prefix as of one revision, page by page, and hands each page to fold. A
// linearizable list (the default) is answered by the leader's knowledge; a serializable one by that of whichever member
// is asked, which may be old, but needs no leader.
func (s *Source) listPages(ctx context.Context, how hedge.Plan, prefix string, fold func(*clientv3.GetResponse), opts ...clientv3.OpOption) error {
	end := clientv3.GetPrefixRangeEnd(prefix)
	from, revision, size := prefix, int64(0), s.opt.Timing.PageSize
	for {
		page := append([]clientv3.OpOption{
			clientv3.WithRange(end), clientv3.WithLimit(size), clientv3.WithRev(revision),
			clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend),
		}, opts...)
		resp, err := s.get(ctx, how, from, page...)
		if isTooLarge(err) && size > 1 {
			size = max(size/4, 1) // something between us and etcd, or the client itself, takes smaller messages only
			continue
		}
		if err != nil {
			return err
		}
		fold(resp)
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		if revision == 0 {
			revision = resp.Header.Revision // all further pages are of the same moment
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// pair is how many members are asked where one of them is silent.
const pair = 2

// pairOf is how they are asked by those who can't wait for another list.
func (s *Source) pairOf() hedge.Plan {
	return hedge.Plan{Calls: pair, Pace: s.opt.CallTimeout / 3, If: s.connected}
}

func (s *Source) connected() bool { return s.cli.ActiveConnection().GetState() == connectivity.Ready }

func (s *Source) get(ctx context.Context, how hedge.Plan, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opt.CallTimeout*5/3) // longer than other calls have: a page may be a megabyte
	defer cancel()
	op := clientv3.OpGet(key, opts...) // once: options may not be applied by two at a time
	resp, err := hedge.First(ctx, how, func(ctx context.Context) (clientv3.OpResponse, error) { return s.cli.Do(ctx, op) })
	if err != nil {
		return nil, err
	}
	return resp.Get(), nil
}

// listService reads one service. At most maxLists of a Source run at the same time.
func (s *Source) listService(ctx context.Context, how hedge.Plan, service string, opts ...clientv3.OpOption) (listing, error) {
	select {
	case s.lists <- struct{}{}:
		defer func() { <-s.lists }()
	case <-ctx.Done():
		return listing{}, context.Cause(ctx)
	}
	var l listing
	err := s.listPages(ctx, how, s.prefixOf(service), func(resp *clientv3.GetResponse) {
		if l.revision == 0 {
			l.revision, l.cluster = resp.Header.Revision, resp.Header.ClusterId
		}
		l.kvs = append(l.kvs, resp.Kvs...)
	}, opts...)
	return l, err
}
