package etcdsource_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/config/etcdsource"
	"github.com/newsvc/newsvc/framework/devetcd"
	"github.com/newsvc/newsvc/framework/etcdclient"
	"github.com/newsvc/newsvc/framework/internal/fakeetcd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "/newsvc/config/user-service"

// lab is an etcd that can be stopped and started, with a client that lives through it.
type lab struct {
	t    *testing.T
	cfg  devetcd.Config
	srv  *devetcd.Server
	cli  *clientv3.Client
	logs *observer.ObservedLogs
	log  *zap.Logger
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, cfg: devetcd.Config{Fast: true, Dir: t.TempDir()}}
	core, logs := observer.New(zap.InfoLevel)
	l.log, l.logs = zap.New(core), logs
	l.start()
	l.cfg.ClientAddr = l.srv.Addr()
	t.Cleanup(func() { l.stop() })
	l.cli = l.client(l.srv.Addr())
	return l
}

func (l *lab) client(addr string) *clientv3.Client {
	l.t.Helper()
	cfg := etcdclient.DefaultConfig()
	cfg.Endpoints, cfg.CallTimeout = []string{addr}, time.Second
	cli, err := etcdclient.New(cfg, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func (l *lab) start() {
	l.t.Helper()
	var err error
	if l.srv, err = devetcd.Start(l.t.Context(), l.cfg); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) stop() {
	if err := l.srv.Close(); err != nil {
		l.t.Error(err)
	}
}

func (l *lab) ctx() context.Context {
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	l.t.Cleanup(cancel)
	return ctx
}

func (l *lab) put(key, value string) int64 {
	l.t.Helper()
	resp, err := l.cli.Put(l.ctx(), prefix+"/"+key, value)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (l *lab) del(key string) {
	l.t.Helper()
	if _, err := l.cli.Delete(l.ctx(), prefix+"/"+key); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) source(opt etcdsource.Options) *etcdsource.Source {
	l.t.Helper()
	opt.Prefix, opt.Service, opt.CallTimeout, opt.Log = prefix, "user-service", time.Second, l.log
	s, err := etcdsource.New(opt)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) first(s *etcdsource.Source) config.Layer {
	l.t.Helper()
	layer, err := s.First(l.ctx(), l.cli)
	if err != nil {
		l.t.Fatal(err)
	}
	return layer
}

// watch follows a source; layers come out of the channel.
func (l *lab) watch(s *etcdsource.Source) <-chan config.Layer {
	l.t.Helper()
	out := make(chan config.Layer, 100)
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	done := make(chan struct{})
	cli := l.cli
	go func() { defer close(done); s.Watch(ctx, cli, func(layer config.Layer) { out <- layer }) }()
	l.t.Cleanup(func() { cancel(); <-done })
	return out
}

// show is a layer in one line.
func show(l config.Layer) string {
	var all []string
	for _, s := range l.Settings {
		all = append(all, s.Key+"="+s.Text)
	}
	return strings.Join(all, " ")
}

func (l *lab) next(layers <-chan config.Layer, want string) {
	l.t.Helper()
	for got := "nothing"; ; {
		select {
		case layer := <-layers:
			if got = show(layer); got == want {
				return
			}
		case <-l.ctx().Done():
			l.t.Fatalf("last came %q, not %q; the log: %v", got, want, l.logs.All())
		}
	}
}

func (l *lab) eventually(what string, ok func() bool) {
	l.t.Helper()
	ctx := l.ctx()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.t.Fatalf("never came: %s", what)
		}
	}
}

func TestKeysAreThoseOfTheConfiguration(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("clients/user-service/timeout", "2s")
	l.put("clients", "{defaults: {timeout: 1s}}")
	l.put("config.yaml", "log: {level: debug}")
	if _, err := l.cli.Put(l.ctx(), prefix+"-else/log/level", "warn"); err != nil {
		t.Fatal(err)
	}
	layer := l.first(l.source(etcdsource.Options{}))
	want := []config.Setting{
		{Text: "log: {level: debug}", Position: config.Position{Name: "etcd " + prefix + "/config.yaml"}},
		{Key: "clients", Text: "{defaults: {timeout: 1s}}", Position: config.Position{Name: "etcd " + prefix + "/clients"}},
		{Key: "clients.user-service.timeout", Text: "2s", Position: config.Position{Name: "etcd " + prefix + "/clients/user-service/timeout"}},
	}
	if diff := cmp.Diff(want, layer.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if layer.Name != "etcd "+prefix || !layer.Documents || layer.Refused["etcd"] == "" {
		t.Errorf("layer %+v", layer)
	}
}

func TestWatchTellsEachChangeOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("a", "1")
	s := l.source(etcdsource.Options{Resync: 20 * time.Millisecond}) // lists all the time
	l.first(s)
	layers := l.watch(s)
	l.put("b", "2")
	l.next(layers, "a=1 b=2")
	if _, err := l.cli.Txn(l.ctx()).Then(clientv3.OpPut(prefix+"/a", "3"), clientv3.OpDelete(prefix+"/b"), clientv3.OpPut(prefix+"/c", "4")).Commit(); err != nil {
		t.Fatal(err)
	}
	if got := show(<-layers); got != "a=3 c=4" {
		t.Errorf("a transaction arrives as %q", got)
	}
	l.put("c", "4") // the same value is no change
	l.del("a")
	if got := show(<-layers); got != "c=4" {
		t.Errorf("then %q", got)
	}
	l.del("c")
	l.next(layers, "") // seen being deleted, so it is believed
	if len(s.State().Held) > 0 {
		t.Error("a deletion is held")
	}
}

func TestOutageKeepsTheLastGoodAndEndsByItself(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("a", "1")
	s := l.source(etcdsource.Options{})
	l.first(s)
	layers := l.watch(s)
	l.put("a", "2")
	l.next(layers, "a=2")
	l.stop()
	l.eventually("that the outage is known", func() bool { return s.State().Err != nil })
	if n := l.logs.FilterMessageSnippet("can't be read").Len(); n != 1 {
		t.Errorf("the outage is told %d times", n)
	}
	l.start()
	l.eventually("the end of the outage", func() bool { return s.State().Err == nil })
	l.put("a", "3")
	l.next(layers, "a=3")
	if len(layers) != 0 {
		t.Error("the outage itself was told as a change")
	}
}

func TestCompactionWhileAwayLeadsToANewList(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("a", "1")
	s := l.source(etcdsource.Options{})
	l.first(s)
	layers := l.watch(s)
	l.put("a", "2")
	l.next(layers, "a=2")
	l.stop()
	l.eventually("that the outage is known", func() bool { return s.State().Err != nil })
	// Behind the back of the watch, at another address.
	addr := l.cfg.ClientAddr
	l.cfg.ClientAddr = ""
	l.start()
	other := l.client(l.srv.Addr())
	for i := range 5 {
		resp, err := other.Put(l.ctx(), prefix+"/a", fmt.Sprint("x", i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Compact(l.ctx(), resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
			t.Fatal(err)
		}
	}
	l.stop()
	l.cfg.ClientAddr = addr
	l.start()
	l.next(layers, "a=x4")
	l.put("b", "1")
	l.next(layers, "a=x4 b=1")
}

// wipe puts an empty etcd in the place of the one that is there.
func (l *lab) wipe() {
	l.t.Helper()
	l.stop()
	l.cfg.Dir = l.t.TempDir()
	l.start()
}

func (l *lab) held(s *etcdsource.Source, want ...string) {
	l.t.Helper()
	var keys []string
	for _, key := range want {
		keys = append(keys, prefix+"/"+key)
	}
	l.eventually(fmt.Sprintf("that %q are held", want), func() bool { return slices.Equal(s.State().Held, keys) })
}

func TestWipedEtcdTakesNothingAway(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for i := range 20 { // revisions that the new one will not have for a while
		l.put("a", fmt.Sprint(i))
	}
	s := l.source(etcdsource.Options{})
	l.first(s)
	layers := l.watch(s)
	l.wipe()
	l.held(s, "a")
	if got := show(<-layers); got != "a=19" || s.State().Keys != 1 {
		t.Errorf("in use: %q, %d keys", got, s.State().Keys)
	}
	if n := l.logs.FilterMessageSnippet("nobody was seen deleting them").Len(); n != 1 {
		t.Errorf("the wipe is told %d times", n)
	}
	l.put("a", "again")
	l.next(layers, "a=again")
	if len(s.State().Held) > 0 {
		t.Error("it is held although it was written again")
	}
	l.del("a")
	l.next(layers, "")
}

func TestAWipedEtcdThatIsFilledAgainDropsNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	for i := range 20 {
		l.put("a", fmt.Sprint(i))
	}
	l.put("b", "1")
	l.put("c", "1")
	s := l.source(etcdsource.Options{Dir: dir})
	if err := s.Keep(l.first(s)); err != nil {
		t.Fatal(err)
	}
	layers := l.watch(s)
	l.wipe()
	l.held(s, "a", "b", "c")
	l.put("b", "2")
	l.next(layers, "a=19 b=2 c=1")
	l.held(s, "a", "c")

	// A start meanwhile knows the same, from the copy, and from one that was made since.
	again := l.source(etcdsource.Options{Dir: dir})
	if got := show(l.first(again)); got != "a=19 b=2 c=1" || again.State().FromCopy || len(again.State().Held) != 2 {
		t.Errorf("a start meanwhile has %q, state %+v", got, again.State())
	}
	keep := func(want string) {
		t.Helper()
		l.next(layers, want)
		layer := l.first(again)
		if err := again.Keep(layer); err != nil || show(layer) != want {
			t.Errorf("kept %q, %v", show(layer), err)
		}
		again = l.source(etcdsource.Options{Dir: dir})
	}
	l.put("d", "1")
	keep("a=19 b=2 c=1 d=1")
	if got := show(l.first(again)); got != "a=19 b=2 c=1 d=1" || len(again.State().Held) != 2 {
		t.Errorf("after that copy: %q, state %+v", got, again.State())
	}
	l.del("d") // is a deletion as ever
	keep("a=19 b=2 c=1")

	l.put("c", "1") // the same value as before
	l.next(layers, "a=19 b=2 c=1")
	l.held(s, "a")
	l.put("a", "20")
	l.next(layers, "a=20 b=2 c=1")
	l.held(s)
	if n := l.logs.FilterMessageSnippet("no setting is missing").Len(); n != 1 {
		t.Errorf("the end is told %d times", n)
	}
	l.del("c")
	l.next(layers, "a=20 b=2")
}

func TestWhatAWipedEtcdLostIsGivenUpWhenToldSo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	l.put("a", "1")
	l.put("b", "1")
	l.put("c", "1")
	s := l.source(etcdsource.Options{Dir: dir})
	if err := s.Keep(l.first(s)); err != nil {
		t.Fatal(err)
	}
	layers := l.watch(s)
	l.wipe()
	l.held(s, "a", "b", "c")
	l.put("a", "2")
	l.next(layers, "a=2 b=1 c=1")
	l.put("b", "2")
	l.del("b") // one key
	l.next(layers, "a=2 c=1")
	l.put("config.complete", "") // all of them
	l.next(layers, "a=2")
	l.held(s)
	if got := show(l.first(l.source(etcdsource.Options{Dir: dir}))); got != "a=2" {
		t.Errorf("a start has %q", got)
	}
	l.del("a")
	l.next(layers, "")
	l.del("config.complete")
	l.put("b", "3")
	l.next(layers, "b=3")
}

// The new etcd has more revisions than the old one by the time at which it is seen. What it was first filled with tells that it is
// another one, or that the missing keys were never deleted.
func TestAWipedEtcdThatHasOvertakenTheOldOneIsKnown(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{
		"settings first":   {prefix + "/b", "/x", "/x", "/x", "/x", "/x", "/x"},
		"other keys first": {"/x", "/x", "/x", "/x", "/x", "/x", prefix + "/b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.put("a", "1")
			l.put("b", "1")
			l.put("c", "1")
			s := l.source(etcdsource.Options{})
			l.first(s)
			layers := l.watch(s)
			l.stop()
			l.eventually("that the outage is known", func() bool { return s.State().Err != nil })
			addr := l.cfg.ClientAddr
			l.cfg.ClientAddr, l.cfg.Dir = "", t.TempDir()
			l.start() // behind the back of the watch, at another address
			other := l.client(l.srv.Addr())
			for _, key := range keys {
				if _, err := other.Put(l.ctx(), key, "2"); err != nil {
					t.Fatal(err)
				}
			}
			l.stop()
			l.cfg.ClientAddr = addr
			l.start()
			l.next(layers, "a=1 b=2 c=1")
			l.held(s, "a", "c")
		})
	}
}

func TestADeletionDuringAnOutageIsBelieved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("a", "1")
	l.put("b", "1")
	s := l.source(etcdsource.Options{})
	l.first(s)
	layers := l.watch(s)
	l.stop()
	l.eventually("that the outage is known", func() bool { return s.State().Err != nil })
	addr := l.cfg.ClientAddr
	l.cfg.ClientAddr = ""
	l.start()
	other := l.client(l.srv.Addr())
	if _, err := other.Delete(l.ctx(), prefix+"/b"); err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.cfg.ClientAddr = addr
	l.start()
	l.next(layers, "a=1")
	l.put("a", "2")
	l.next(layers, "a=2")
	if len(s.State().Held) > 0 {
		t.Errorf("held: %v", s.State().Held)
	}
}

// Something between here and etcd lets no watch through.
func TestWithoutWatchesListsAreBelieved(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("a", "1")
	l.put("b", "1")
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{l.srv.Addr()}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			if strings.Contains(method, "Watch") {
				return nil, status.Error(codes.Unavailable, "no watch comes through")
			}
			return next(ctx, desc, cc, method, opts...)
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	writer := l.cli
	l.cli = cli
	s := l.source(etcdsource.Options{Resync: 50 * time.Millisecond})
	l.first(s)
	layers := l.watch(s)
	l.cli = writer
	l.put("a", "2")
	l.next(layers, "a=2 b=1")
	l.del("b")
	l.next(layers, "a=2")
	if len(s.State().Held) > 0 {
		t.Errorf("held: %v", s.State().Held)
	}
}

func TestTheLongerKeyWinsHoweverItIsWritten(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("clients/user-service", "{timeout: 1s}")
	l.put("clients.user-service.timeout", "2s")
	layer := l.first(l.source(etcdsource.Options{}))
	if got := show(layer); got != "clients.user-service={timeout: 1s} clients.user-service.timeout=2s" {
		t.Errorf("in this order: %q", got)
	}
}

func TestACopyLeavesNoHalvesBehind(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	left, fresh := filepath.Join(dir, "user-service.config.json.123.tmp"), filepath.Join(dir, "user-service.config.json.456.tmp")
	for _, name := range []string{left, fresh} { // of a process that was killed, and of one that writes at this moment
		if err := os.WriteFile(name, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(left, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	l.put("a", "1")
	s := l.source(etcdsource.Options{Dir: dir})
	if err := s.Keep(l.first(s)); err != nil {
		t.Fatal(err)
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*"))
	if diff := cmp.Diff([]string{filepath.Join(dir, "user-service.config.json"), fresh}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestStartWithoutEtcdTakesTheCopy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := filepath.Join(t.TempDir(), "cache")
	l.put("a", "secret")
	s := l.source(etcdsource.Options{Dir: dir})
	if err := s.Keep(l.first(s)); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "user-service.config.json")
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy: %v, %v", info, err)
	}
	l.stop()
	s = l.source(etcdsource.Options{Dir: dir})
	began := time.Now()
	if got := show(l.first(s)); got != "a=secret" || !s.State().FromCopy || s.State().Err == nil {
		t.Errorf("settings %q, state %+v", got, s.State())
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("gave up after %v", took)
	}
	layers := l.watch(s)
	l.start()
	l.eventually("etcd to be read", func() bool { st := s.State(); return !st.FromCopy && st.Err == nil })
	l.put("a", "new")
	l.next(layers, "a=new")
}

// A member that is cut off from the others takes calls and answers none.
func TestAStartDoesNotWaitForASilentMember(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.put("log/level", "debug")
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{l.srv.Addr()}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithNoProxy(), fakeetcd.LoneReadsMeetASilentMember()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	s, err := etcdsource.New(etcdsource.Options{Prefix: prefix, Service: "user-service"})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := s.First(l.ctx(), cli)
	if err != nil || len(layer.Settings) != 1 {
		t.Errorf("got %v, %v, want the setting", layer, err)
	}
}

func TestStartWithoutEtcdAndWithoutCopySaysWhatToDo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.stop()
	for dir, want := range map[string]string{
		"":          "with discovery.cache_dir set, a copy is kept for starts without etcd",
		t.TempDir(): "there is no copy in",
	} {
		_, err := l.source(etcdsource.Options{Dir: dir}).First(l.ctx(), l.cli)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), `read the configuration below "`+prefix+`" from etcd at "127.0.0.1:`) {
			t.Errorf("error: %v", err)
		}
	}
	l.start()
}

func TestStartAfterAWipeTakesTheCopy(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	l.put("a", "1")
	s := l.source(etcdsource.Options{Dir: dir})
	if err := s.Keep(l.first(s)); err != nil {
		t.Fatal(err)
	}
	l.stop()
	l.cfg.Dir = t.TempDir()
	l.start()
	s = l.source(etcdsource.Options{Dir: dir})
	if got := show(l.first(s)); got != "a=1" || len(s.State().Held) != 1 || !s.State().FromCopy {
		t.Errorf("settings %q, state %+v", got, s.State())
	}
	layers := l.watch(s)
	l.put("b", "1")
	l.next(layers, "a=1 b=1")
	if st := s.State(); st.FromCopy || len(st.Held) != 1 {
		t.Errorf("state %+v", st)
	}
	l.del("b")
	l.next(layers, "a=1")
	l.put("config.complete", "yes")
	l.next(layers, "")
	if err := s.Keep(config.Layer{Name: s.Name()}); err != nil {
		t.Fatal(err)
	}
	if got := show(l.first(l.source(etcdsource.Options{Dir: dir}))); got != "" {
		t.Errorf("after all was deleted, a start has %q", got)
	}
}

func TestCopyThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "user-service.config.json")
	if err := os.WriteFile(name, []byte(`{"prefix":"/elsewhere","settings":{"/elsewhere/a":"1"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.source(etcdsource.Options{Dir: dir}).Copy(); ok {
		t.Error("a copy of another prefix is taken")
	}
	if err := os.WriteFile(name, []byte(`{`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := show(l.first(l.source(etcdsource.Options{Dir: dir}))); got != "" {
		t.Errorf("with etcd there, a broken copy gives %q", got)
	}
	l.stop()
	_, err := l.source(etcdsource.Options{Dir: dir}).First(l.ctx(), l.cli)
	if err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("error: %v", err)
	}
	l.start()
}

func TestPrefixOfEverythingIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for i := range 1001 {
		l.put(fmt.Sprint("k", i), "x")
	}
	_, err := l.source(etcdsource.Options{}).First(l.ctx(), l.cli)
	if err == nil || !strings.Contains(err.Error(), "more than 1000 keys") {
		t.Errorf("error: %v", err)
	}
	for _, bad := range []string{"", "x", "/x/"} {
		if _, err := etcdsource.New(etcdsource.Options{Prefix: bad}); err == nil {
			t.Errorf("prefix %q passes", bad)
		}
	}
}

func TestReaderWithoutOtherRightsOutlivesItsTokens(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.stop()
	l.cfg.AuthTokenTTL = time.Second
	l.start()
	l.put("a", "1")
	admin := l.srv.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	grant := func() {
		t.Helper()
		must(admin.RoleGrantPermission(l.ctx(), "reader", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"), clientv3.PermissionType(clientv3.PermRead)))
	}
	must(admin.RoleAdd(l.ctx(), "reader"))
	grant()
	for user, role := range map[string]string{"root": "root", "user-service": "reader"} {
		must(admin.UserAdd(l.ctx(), user, "secret"))
		must(admin.UserGrantRole(l.ctx(), user, role))
	}
	must(admin.AuthEnable(l.ctx()))
	as := func(user string) *clientv3.Client {
		cfg := etcdclient.DefaultConfig()
		cfg.Endpoints, cfg.Username, cfg.Password = []string{l.srv.Addr()}, user, "secret"
		cli, err := etcdclient.New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cli.Close() })
		return cli
	}
	admin, l.cli = as("root"), as("user-service")
	s := l.source(etcdsource.Options{Resync: 300 * time.Millisecond})
	l.first(s)
	layers := l.watch(s)
	began := time.Now()
	l.eventually("three lives of a token", func() bool { return s.State().AsOf.Sub(began) > 3*time.Second })
	must(admin.Put(l.ctx(), prefix+"/a", "2"))
	l.next(layers, "a=2")
	must(admin.RoleRevokePermission(l.ctx(), "reader", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/")))
	l.eventually("that the right is gone", func() bool { return s.State().Err != nil })
	if err := s.State().Err; !strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "does not answer") ||
		!strings.Contains(err.Error(), "newsvc etcd-roles user-service --config-prefix "+prefix) || s.State().Keys != 1 {
		t.Errorf("state %+v", s.State())
	}
	if _, err := l.source(etcdsource.Options{}).First(l.ctx(), l.cli); err == nil || strings.Contains(err.Error(), "does not answer") || strings.Contains(err.Error(), "start etcd") {
		t.Errorf("a start says %v", err)
	}
	grant()
	must(admin.Put(l.ctx(), prefix+"/a", "3"))
	l.next(layers, "a=3")
}
