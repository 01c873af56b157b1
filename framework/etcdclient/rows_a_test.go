package etcdclient_test

import (
	"context"
	"net"
	"net/url"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/newsvc/newsvc/framework/etcdclient"
)

// gRPC's own wait between two attempts to connect grows to two minutes, longer than any lease.
func TestA03AttemptsToConnectAreSecondsApart(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	attempts := make(chan time.Time, 100)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			attempts <- time.Now()
			_ = c.Close()
		}
	})
	cli := newClient(t, config(l.Addr().String()), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 13*time.Second)
	defer cancel()
	_, _ = cli.Get(ctx, "x") // connects until ctx ends
	_ = l.Close()
	wg.Wait()
	close(attempts)
	var last time.Time
	var gaps []time.Duration
	for at := range attempts {
		if !last.IsZero() {
			gaps = append(gaps, at.Sub(last))
		}
		last = at
	}
	// By default they would come after 1, 1.6, 2.6 and 4.1 s.
	if len(gaps) < 8 || slices.Max(gaps) > 3500*time.Millisecond {
		t.Errorf("attempts are %v apart, want 2 s, spread by a fifth, at the most", gaps)
	}
}

// What etcd believes its addresses to be may be of no use to anybody, as behind a proxy.
func TestA30AdvertisedAddressesAreNotUsed(t *testing.T) {
	t.Parallel()
	good, dead := url.URL{Scheme: "http", Host: freeAddr(t)}, url.URL{Scheme: "http", Host: freeAddr(t)}
	startEmbedded(t, func(c *embed.Config) {
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{good}, []url.URL{dead}
	})
	cli := newClient(t, config(good.Host), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	members, err := cli.MemberList(ctx)
	if err != nil || len(members.Members) != 1 || !slices.Equal(members.Members[0].ClientURLs, []string{dead.String()}) {
		t.Fatalf("members = %v, %v; want one that advertises %s", members, err, dead.String())
	}
	if eps := cli.Endpoints(); !slices.Equal(eps, []string{good.Host}) {
		t.Errorf("the client's endpoints are %v now", eps)
	}
	// That it stays so for minutes can't be waited for; the client keeps the interval to itself.
	every := reflect.ValueOf(cli).Elem().FieldByName("cfg").FieldByName("AutoSyncInterval")
	if !every.IsValid() || every.Int() != 0 {
		t.Errorf("the client asks etcd for its endpoints every %v", every)
	}
	works(t, etcdclient.Config{Endpoints: []string{good.Host}, CallTimeout: 3 * time.Second})
}
