package registryview_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/call/calltest"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/devrecord"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/locate"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/registryview"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	t    *testing.T
	etcd *devetcd.Server
	reg  *registryview.Registry
}

func start(t *testing.T) *fixture {
	t.Helper()
	etcd, err := devetcd.Start(t.Context(), devetcd.Config{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() }) // a test may have closed it
	return &fixture{t, etcd, open(t, etcd.Endpoints())}
}

func open(t *testing.T, endpoints []string) *registryview.Registry {
	t.Helper()
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints = endpoints
	reg, err := registryview.Open(locate.Place{Etcd: cfg, Prefix: discovery.DefaultPrefix, How: locate.HowFlag})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	return reg
}

func (f *fixture) serve(o calltest.Service) (s *stack.Stack, stop func()) {
	f.t.Helper()
	o.Etcd = f.etcd.Endpoints()
	s, err := calltest.Start(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	done := false
	stop = func() {
		if !done {
			done = true
			if err := calltest.Stop(s); err != nil {
				f.t.Error(err)
			}
		}
	}
	f.t.Cleanup(stop)
	return s, stop
}

func (f *fixture) put(key, value string) {
	f.t.Helper()
	if _, err := f.etcd.Client().Put(f.limit(), key, value); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) limit() context.Context {
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	f.t.Cleanup(cancel)
	return ctx
}

func TestListShowsInstancesAndWritesNothing(t *testing.T) {
	t.Parallel()
	f := start(t)
	before := time.Now().Truncate(time.Second)
	s, _ := f.serve(calltest.Service{Name: "blogger-user", Version: "1.4.1", Zone: "eu", Weight: 50})
	f.put("/newsvc/default/foreign/10.0.0.9:80", "10.0.0.9:80")
	f.put("/newsvc/default/blogger-post/10.0.0.8:80", `{"Op":0,"Addr":"10.0.0.8:80","Metadata":{"state":"draining"}}`)
	was := f.state()

	found, err := f.reg.List(f.limit(), "")
	if err != nil {
		t.Fatal(err)
	}
	rows := registryview.Rows(found)
	if len(rows) != 3 || rows[0].Service != "blogger-post" || rows[1].Service != "blogger-user" || rows[2].Service != "foreign" {
		t.Fatalf("listed %+v", rows)
	}
	addr, _, _ := s.Addresses()
	own := rows[1]
	if own.Address != addr || own.Instance != s.Incarnation() || own.Version != "1.4.1" || own.Zone != "eu" || own.Weight != 50 || own.State != discovery.StateUp {
		t.Errorf("ours is %+v", own)
	}
	if own.Since.Before(before) || time.Since(own.Since) > time.Minute {
		t.Errorf("it serves since %v, want about %v", own.Since, before)
	}
	var text bytes.Buffer
	if err := registryview.WriteTable(&text, rows); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(text.String(), "\n")
	for n, want := range []string{
		"SERVICE INSTANCE ADDRESS VERSION ZONE WEIGHT STATE SINCE",
		"blogger-post - 10.0.0.8:80 - - - draining -",
		strings.Join([]string{"blogger-user", strings.ToLower(s.Incarnation()[:4]), addr, "1.4.1 eu 50 up", own.Since.Local().Format(time.DateTime)}, " "),
		"foreign - 10.0.0.9:80 - - - up -",
	} {
		if got := strings.Join(strings.Fields(lines[n]), " "); got != want {
			t.Errorf("line %d is %q, want %q", n, got, want)
		}
	}
	if some, err := f.reg.List(f.limit(), "blogger-*"); err != nil || len(some) != 2 {
		t.Errorf("the pattern matches %d, %v; want 2", len(some), err)
	}
	if _, err := f.reg.Elsewhere(f.limit(), discovery.DefaultPrefix, "x"); err != nil {
		t.Error(err)
	}
	if is := f.state(); is != was {
		t.Errorf("reading changed etcd: revision and leases were %v, are %v", was, is)
	}
}

// state is the revision of etcd, and how many leases there are.
func (f *fixture) state() [2]int64 {
	f.t.Helper()
	resp, err := f.etcd.Client().Get(f.limit(), "x")
	if err != nil {
		f.t.Fatal(err)
	}
	leases, err := f.etcd.Client().Leases(f.limit())
	if err != nil {
		f.t.Fatal(err)
	}
	return [2]int64{resp.Header.Revision, int64(len(leases.Leases))}
}

func TestFollowTellsALeaveFromALoss(t *testing.T) {
	t.Parallel()
	f := start(t)
	_, stop := f.serve(calltest.Service{Name: "blogger-user"})
	events := make(chan registryview.Event, 100)
	ctx, cancel := context.WithCancel(f.limit())
	ended := make(chan error, 1)
	go func() {
		ended <- f.reg.Follow(ctx, "blogger-*", func(e registryview.Event) { events <- e })
	}()
	next := func(want string) registryview.Event {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.Event == registryview.Changed && want != registryview.Changed { // it may be seen draining, or not
					continue
				}
				if e.Event != want {
					t.Fatalf("the event is %q, want %q: %s", e.Event, want, e)
				}
				return e
			case <-ctx.Done():
				t.Fatalf("no event %q", want)
			}
		}
	}
	next(registryview.Present)
	stop()
	if e := next(registryview.Left); !strings.HasSuffix(e.String(), " gone after draining") {
		t.Errorf("the line is %q", e)
	}
	const key = "/newsvc/default/blogger-post/10.0.0.9:80" // of a service that was not there before
	f.put(key, "10.0.0.9:80")
	e := next(registryview.Present)
	if e.Service != "blogger-post" || !strings.Contains(e.String(), "blogger-post - - 10.0.0.9:80 up") {
		t.Errorf("the line is %q", e)
	}
	if _, err := f.etcd.Client().Delete(f.limit(), key); err != nil {
		t.Fatal(err)
	}
	if e := next(registryview.Lost); !strings.HasSuffix(e.String(), " gone without draining") {
		t.Errorf("the line is %q", e)
	}
	f.put(key, "10.0.0.9:80")
	if e := next(registryview.Joined); !strings.Contains(e.String(), "  + blogger-post") {
		t.Errorf("the line is %q", e)
	}
	f.put(key, `{"Op":0,"Addr":"10.0.0.9:80","Metadata":{"state":"draining","zone":"eu"}}`)
	if e := next(registryview.Changed); !strings.HasSuffix(e.String(), "up -> draining, zone - -> eu") {
		t.Errorf("the line is %q", e)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow ended with %v", err)
	}
}

func TestAnUnknownServiceIsAnsweredByWhatIsNear(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.put("/newsvc/default/blogger-user/10.0.0.9:80", "10.0.0.9:80")
	f.put("/newsvc/default/blogger-post/10.0.0.9:81", "10.0.0.9:81")
	f.put("/newsvc/eu/billing/10.0.0.9:82", "10.0.0.9:82")
	where := "   at: etcd " + f.etcd.Addr() + " (--etcd), prefix /newsvc/default: blogger-post, blogger-user"
	for service, want := range map[string]string{
		"blogger-usr": "no instance of blogger-usr is registered\n" + where + "\n  fix: newsvc ls blogger-user",
		"billing":     "no instance of billing is registered\n" + where + "; below prefix /newsvc/eu there is 10.0.0.9:82\n  fix: newsvc ls billing --prefix /newsvc/eu",
		"zebra":       "no instance of zebra is registered\n" + where + "\n  fix: start it, or look elsewhere with --prefix and --etcd; newsvc ls shows what there is",
	} {
		err := f.reg.Unknown(f.limit(), service, "newsvc ls "+service)
		if err.Error() != want || problem.Code(err) != problem.NotFound {
			t.Errorf("exit %d:\n%s\nwant:\n%s", problem.Code(err), err, want)
		}
	}
}

func TestAnEtcdThatIsNotThereIsToldAtOnce(t *testing.T) {
	t.Parallel()
	f := start(t)
	addr := f.etcd.Addr()
	if err := f.etcd.Close(); err != nil {
		t.Fatal(err)
	}
	reg := open(t, []string{addr})
	_, err := reg.List(f.limit(), "")
	if problem.Code(err) != problem.Environment || !strings.Contains(err.Error(), "no answer from etcd at "+addr+" (--etcd)") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("List = %v", err)
	}
}

// A service's own user, as package locate finds it in its configuration, is what etcd is asked with.
func TestAnEtcdWithUsersIsAskedByTheOneOfTheService(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.put("/newsvc/default/billing/10.0.0.9:82", "10.0.0.9:82")
	cli := f.etcd.Client()
	for _, step := range []func() error{
		func() error { _, err := cli.UserAdd(f.limit(), "root", "secret"); return err },
		func() error { _, err := cli.UserGrantRole(f.limit(), "root", "root"); return err },
		func() error { _, err := cli.AuthEnable(f.limit()); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"newsvc.yaml":      "kind: service\nname: billing\n",
		"config.prod.yaml": fmt.Sprintf("etcd:\n  endpoints: [%q]\n  username: root\n  password: secret\n", f.etcd.Addr()),
		"config.yaml":      "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	place, err := locate.Flags{Env: "prod"}.Find(f.limit(), dir)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := registryview.Open(place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	if found, err := reg.List(f.limit(), ""); err != nil || len(found) != 1 {
		t.Errorf("with the user: %v, %v", found, err)
	}
	_, err = open(t, f.etcd.Endpoints()).List(f.limit(), "")
	if problem.Code(err) != problem.Environment || !strings.HasPrefix(err.Error(), "etcd at "+f.etcd.Addr()+" (--etcd) refuses to tell what is registered") {
		t.Errorf("without the user: %v", err)
	}
}

func TestNamesThatAreNear(t *testing.T) {
	t.Parallel()
	all := []string{"blogger-post", "blogger-user", "user", "user-service", "zebra"}
	for service, want := range map[string][]string{
		"user-servise": {"user-service", "user"},
		"users":        {"user"},
		"blogger":      {"blogger-post", "blogger-user"},
		"nothing":      nil,
		"zebra":        nil,
	} {
		if got := registryview.Near(service, all); !slices.Equal(got, want) {
			t.Errorf("near %q are %q, want %q", service, got, want)
		}
	}
}

func TestAServiceThatServesHTTPOnlyIsNotSaidToBeMissing(t *testing.T) {
	t.Parallel()
	f := start(t)
	f.reg.Place.Devs = []devrecord.Record{{Services: map[string]devrecord.Service{
		"edge":  {Instances: []devrecord.Instance{{HTTP: "127.0.0.1:8080"}}},
		"users": {Instances: []devrecord.Instance{{GRPC: "127.0.0.1:1", HTTP: "127.0.0.1:8081"}}},
	}}}
	err := f.reg.Unknown(t.Context(), "edge", "newsvc call edge Ping")
	if problem.Code(err) != problem.NotFound || err.Error() != "edge serves HTTP only, so it is not registered and takes no calls by name\n   at: newsvc dev runs it: http://127.0.0.1:8080\n  fix: curl http://127.0.0.1:8080" {
		t.Errorf("it says %v", err)
	}
	if err := f.reg.Unknown(t.Context(), "users", "newsvc ls users"); !strings.HasPrefix(err.Error(), "no instance of users is registered") {
		t.Errorf("of one that serves both it says %v", err)
	}
}

func TestAKeyThatHoldsNoInstanceIsNotSaidToBeMissing(t *testing.T) {
	t.Parallel()
	f := start(t)
	if _, err := f.etcd.Client().Put(t.Context(), "/newsvc/default/junk/10.0.0.3:80", "{not json"); err != nil {
		t.Fatal(err)
	}
	err := f.reg.Unknown(t.Context(), "junk", "newsvc ls junk")
	if problem.Code(err) != problem.NotFound || !strings.HasPrefix(err.Error(), "junk has a key in etcd, and what stands there is no instance\n") ||
		!strings.HasSuffix(err.Error(), " get --prefix /newsvc/default/junk/") {
		t.Errorf("it says %v", err)
	}
}
