package faulttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// EtcdStats are what etcd says of itself, all members together.
type EtcdStats struct {
	// Watchers are watches of clients, Streams the streams on which they run.
	Watchers, Streams int
	// Leases is how many there are.
	Leases int
	// Keys is how many keys there are below "/", Revision the present one.
	Keys, Revision int64
	// Requests is how many calls and messages of streams the members have received since their start, by the full name of the method.
	Requests map[string]int64
	// Own is how many calls the suite itself has made with Admin and by asking members; they are among Requests, if
	// they came through.
	Own int64
}

// Stats asks the members that run; it fails when none of them answers.
func (c *Cluster) Stats(ctx context.Context) (EtcdStats, error) {
	stats := EtcdStats{Requests: map[string]int64{}, Own: c.own.Load()}
	var errs []error
	for _, m := range c.members {
		if err := m.addMetrics(ctx, &stats); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == len(c.members) {
		return stats, errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	leases, err := c.Leases(ctx)
	if err != nil {
		return stats, err
	}
	stats.Leases = len(leases)
	res, err := c.Admin().Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return stats, fmt.Errorf("count the keys of etcd: %w", err)
	}
	stats.Keys, stats.Revision = res.Count, res.Header.Revision
	return stats, nil
}

// watchers asks the members that run.
func (c *Cluster) watchers(ctx context.Context) (int, error) {
	stats := EtcdStats{Requests: map[string]int64{}}
	for _, m := range c.members {
		if err := m.addMetrics(ctx, &stats); err != nil {
			return 0, err
		}
	}
	return stats.Watchers, nil
}

// Leases returns the leases that exist.
func (c *Cluster) Leases(ctx context.Context) ([]clientv3.LeaseID, error) {
	res, err := c.Admin().Leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the leases of etcd: %w", err)
	}
	var out []clientv3.LeaseID
	for _, l := range res.Leases {
		out = append(out, l.ID)
	}
	return out, nil
}

// addMetrics adds what one member says.
func (m *Member) addMetrics(ctx context.Context, stats *EtcdStats) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.client+"/metrics", http.NoBody)
	if err != nil {
		return err
	}
	tr := &http.Transport{DisableKeepAlives: true} // no proxy of the environment
	res, err := tr.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("read the metrics of etcd %s: %w", m.name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("read the metrics of etcd %s: %s", m.name, res.Status)
	}
	if err := stats.add(res.Body); err != nil {
		return fmt.Errorf("read the metrics of etcd %s: %w", m.name, err)
	}
	return nil
}

// add reads metrics in the text format of Prometheus.
func (s *EtcdStats) add(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, text, ok := cutLast(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		switch {
		case name == "etcd_debugging_mvcc_watcher_total":
			s.Watchers += int(value)
		case name == "etcd_debugging_mvcc_watch_stream_total":
			s.Streams += int(value)
		case strings.HasPrefix(name, "grpc_server_msg_received_total{"):
			s.Requests[method(name)] += int64(value)
		}
	}
	return lines.Err()
}

// method is the full name of the method in the labels of a metric.
func method(metric string) string {
	label := func(key string) string {
		_, after, _ := strings.Cut(metric, key+`="`)
		value, _, _ := strings.Cut(after, `"`)
		return value
	}
	return "/" + label("grpc_service") + "/" + label("grpc_method")
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// isDenied tells errors of a member that answers but wants to know who asks, or does not like who does.
func isDenied(err error) bool {
	return errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrInvalidAuthToken)
}
