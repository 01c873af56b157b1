package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/doctor"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/problem"
	"github.com/newsvc/newsvc/framework/certs"
	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/discovery"
	"github.com/newsvc/newsvc/framework/stack"
)

// machine is where remedies are pasted: commands that change more than a test may are played by scripts, which insist on
// being called as the remedy says.
type machine struct {
	t   *testing.T
	bin string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("remedies are pasted into sh")
	}
	return &machine{t, t.TempDir()}
}

// plays puts a script into PATH.
func (m *machine) plays(name, script string) string {
	m.t.Helper()
	path := filepath.Join(m.bin, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\nset -e\n"+script+"\n"), 0o700); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// paste runs a remedy as it is printed, in the environment and the directory of o, and leaves o with what the shell has then.
func (m *machine) paste(o *doctor.Options, f doctor.Finding) {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "/bin/sh", "-c", f.Fix+"\nstatus=$?\nexec >&3\nenv -0\nexit $status")
	cmd.Dir = o.Dir
	cmd.Env = append([]string{"EDITOR=false"}, append(slices.Clone(o.Environ), "PWD="+o.Dir)...)
	for i, kv := range cmd.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			cmd.Env[i] = "PATH=" + m.bin + string(filepath.ListSeparator) + path + ":/usr/bin:/bin"
		}
	}
	vars, err := os.Create(filepath.Join(m.t.TempDir(), "env"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer vars.Close()
	cmd.ExtraFiles = []*os.File{vars}
	if out, err := cmd.CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", f.Fix, err, out)
	}
	text, err := os.ReadFile(vars.Name())
	if err != nil {
		m.t.Fatal(err)
	}
	o.Environ = strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

// ends wants a remedy to end its finding.
func (m *machine) ends(o doctor.Options, check, says string) doctor.Finding {
	m.t.Helper()
	f := finding(m.t, run(m.t, o), check)
	if !strings.Contains(f.What, says) {
		m.t.Errorf("%s says %q, want %q", check, f.What, says)
	}
	m.t.Logf("%s: %s\n  fix: %s", check, f.What, f.Fix)
	m.paste(&o, f)
	for _, after := range run(m.t, o).Checks {
		if after.Check == check && (after.Level == doctor.Warn || after.Level == doctor.Fail) {
			m.t.Errorf("after %s there is still %+v", f.Fix, after)
		}
	}
	return f
}

// editor is a person at an editor, who opens just this file and replaces old by another text.
func (m *machine) editor(file, old, with string) string {
	m.t.Helper()
	write(m.t, m.bin, map[string]string{"with": with})
	return m.plays("edit", fmt.Sprintf(`test $# = 1
test "$1" -ef '%s'
grep -q '%s' "$1"
sed "s|%s|$(cat '%s/with')|" "$1" > "$1.new"
mv "$1.new" "$1"`, file, old, old, m.bin))
}

// setenv sets variables for a run, the last setting of each counts.
func setenv(o *doctor.Options, vars ...string) {
	for _, v := range vars {
		name, _, _ := strings.Cut(v, "=")
		o.Environ = slices.DeleteFunc(slices.Clone(o.Environ), func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
		o.Environ = append(o.Environ, v)
	}
}

func TestRemedyGoThatIsNotInPath(t *testing.T) {
	t.Parallel()
	m, o := newMachine(t), options(t, "default", "127.0.0.1:1")
	home := filepath.Join(t.TempDir(), "my home")
	write(t, home, map[string]string{"sdk/.keep": "", ".config/go/telemetry/mode": "off"}) // else the go command goes on writing there
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(home, "sdk", "go")); err != nil {
		t.Fatal(err)
	}
	setenv(&o, "PATH="+t.TempDir(), "HOME="+home)
	f := m.ends(o, "go", "the go command is not in PATH")
	if want := `export PATH="` + filepath.Join(home, "sdk", "go", "bin") + `:$PATH"`; f.Fix != want {
		t.Errorf("the remedy is %s, want %s", f.Fix, want)
	}
}

// TestRemedyGoTooOldToFetch has a go command from before toolchains. curl is played: there may be no network, nor the release.
func TestRemedyGoTooOldToFetch(t *testing.T) {
	t.Parallel()
	m, o := newMachine(t), options(t, "default", "127.0.0.1:1")
	old := t.TempDir()
	goSaying := func(version string) string {
		return "#!/bin/sh\necho '{\"GOVERSION\": \"" + version + "\", \"GOENV\": \"\", \"GOROOT\": \"\", \"GOPATH\": \"/nowhere\"}'\n"
	}
	write(t, old, map[string]string{"go": goSaying("go1.20.14"), "dist/go/bin/go": goSaying("go1.99.0"), "dist/go/VERSION": "go1.99.0\n"})
	for _, f := range []string{"go", "dist/go/bin/go"} {
		if err := os.Chmod(filepath.Join(old, f), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.plays("curl", fmt.Sprintf(`test "$*" = '-fsSL https://go.dev/dl/go1.99.0.%s-%s.tar.gz'
tar -cz -C '%s/dist' go`, runtime.GOOS, runtime.GOARCH, old))
	write(t, o.Dir, map[string]string{"go.mod": "module example.com/x\n\ngo 1.99\n"})
	setenv(&o, "PATH="+old, "HOME="+t.TempDir())
	m.ends(o, "go", "go.mod needs Go 1.99, this is go1.20.14, which cannot fetch another")
}

func TestRemedyNoHome(t *testing.T) {
	t.Parallel()
	m, o := newMachine(t), options(t, "default", "127.0.0.1:1")
	o.Environ = slices.DeleteFunc(slices.Clone(o.Environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"HOME", "GOPATH", "GOBIN", "XDG_CONFIG_HOME", "GOENV"}, name)
	})
	const says = "neither HOME nor GOPATH is set"
	f := finding(t, run(t, o), "path")
	if !strings.HasPrefix(f.What, says) {
		t.Fatalf("it says %q", f.What)
	}
	m.paste(&o, f)
	for _, after := range run(t, o).Checks {
		if strings.HasPrefix(after.What, says) {
			t.Errorf("after %s there is still %+v", f.Fix, after)
		}
	}
	for _, kv := range o.Environ {
		if home, ok := strings.CutPrefix(kv, "HOME="); ok {
			if info, err := os.Stat(home); err != nil || !info.IsDir() {
				t.Errorf("%s: %v", kv, err)
			}
			return
		}
	}
	t.Error("HOME is still not set")
}

func TestRemedyFilesThatDoNotParse(t *testing.T) {
	t.Parallel()
	const goMod = "module example.com/x\n\ngo 1.26.0\n"
	const marker = "kind: service\nname: x\n"
	for name, tc := range map[string]struct {
		files           map[string]string
		check, says     string
		file, old, with string
	}{
		"go.mod":             {map[string]string{"go.mod": "module example.com/x\n\nrequir y v1.0.0\n"}, "versions", "go.mod cannot be read", "go.mod", "requir y", "// y"},
		"newsvc.yaml":        {map[string]string{"go.mod": goMod, "newsvc.yaml": "kind: servce\nname: x\n"}, "project", "cannot make sense of newsvc.yaml", "newsvc.yaml", "servce", "service"},
		"no YAML":            {map[string]string{"go.mod": goMod, "newsvc.yaml": "kind: [service\n"}, "project", "cannot make sense of newsvc.yaml", "newsvc.yaml", `\[service`, "service"},
		"config.yaml":        {map[string]string{"go.mod": goMod, "newsvc.yaml": marker, "config.yaml": "server:\n  lissten: \":9000\"\n"}, "config", "the configuration of x is refused: ", "config.yaml", "lissten", "listen"},
		"config, no YAML":    {map[string]string{"go.mod": goMod, "newsvc.yaml": marker, "config.yaml": "server: {\n"}, "config", "the configuration of x is refused: ", "config.yaml", "{", ""},
		"a value":            {map[string]string{"go.mod": goMod, "newsvc.yaml": marker, "config.yaml": "server:\n  listen: nonsense\n"}, "config", "refused: ", "config.yaml", "nonsense", `":0"`},
		"two mistakes":       {map[string]string{"go.mod": goMod, "newsvc.yaml": marker, "config.yaml": "server:\n  a_a: 1\n  b_b: 1\n"}, "config", "the configuration of x is refused", "config.yaml", "  [ab]_[ab]: 1", ""},
		"etcd of the config": {map[string]string{"go.mod": goMod, "newsvc.yaml": marker, "config.yaml": "admin:\n  lstn: \":0\"\n"}, "config", "refused", "config.yaml", "lstn", "listen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, o := newMachine(t), options(t, "default", "127.0.0.1:1")
			o.Dir = filepath.Join(o.Dir, "my project")
			write(t, o.Dir, tc.files)
			setenv(&o, "EDITOR="+m.editor(filepath.Join(o.Dir, tc.file), tc.old, tc.with))
			if f := m.ends(o, tc.check, tc.says); !strings.HasPrefix(f.Fix, "${EDITOR:-vi} ") {
				t.Errorf("the remedy is %s", f.Fix)
			}
		})
	}
}

func TestRemedyConfigOfTheEnvironment(t *testing.T) {
	t.Parallel()
	files := map[string]string{"go.mod": "module example.com/x\n\ngo 1.26.0\n", "newsvc.yaml": "kind: service\nname: x\n"}
	m, o := newMachine(t), options(t, "default", "127.0.0.1:1")
	write(t, o.Dir, files)
	setenv(&o, "X__SERVER__LISTEN=nonsense", "X__ADMIN__LISTENN=:0")
	if f := m.ends(o, "config", "the configuration of x is refused"); !strings.HasPrefix(f.Fix, "unset X__") {
		t.Errorf("the remedy is %s", f.Fix)
	}
	write(t, o.Dir, map[string]string{"config.yaml": "server:\n  lissten: \":0\"\n"})
	setenv(&o, "X__SERVER__LISTEN=:0", "EDITOR="+m.editor(filepath.Join(o.Dir, "config.yaml"), "lissten", "listen"))
	m.ends(o, "config", "the configuration of x is refused")
}

// TestRemedyClock has a sudo that sets the clock, as doctor sees it.
func TestRemedyClock(t *testing.T) {
	t.Parallel()
	m, etcd := newMachine(t), startEtcd(t, "")
	o := options(t, "--etcd", etcd.Addr())
	set := filepath.Join(t.TempDir(), "set")
	m.plays("sudo", fmt.Sprintf(`test "$*" = 'timedatectl set-ntp true' && touch '%s'`, set))
	o.Now = func() time.Time {
		if _, err := os.Stat(set); err == nil {
			return time.Now()
		}
		return time.Now().Add(time.Hour)
	}
	m.ends(o, "clock", "more than the life of a lease")
}

func TestRemedyEtcdOfTheConfigIsAway(t *testing.T) {
	t.Parallel()
	etcd, gone := startEtcd(t, ""), closedAddr(t)
	for name, tc := range map[string]struct {
		text  string
		reach []string // what the configuration names
		says  string
	}{
		"all": {"etcd:\n  endpoints: [" + gone + "]\n", []string{gone}, "cannot be reached: connection refused"},
		"one": {"etcd:\n  endpoints: [" + gone + ", " + etcd.Addr() + "]\n", []string{gone, etcd.Addr()}, gone + " cannot be reached: connection refused; " + etcd.Addr() + " can"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, o := newMachine(t), options(t, "config.yaml:2 of x", tc.reach...)
			write(t, o.Dir, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26.0\n", "newsvc.yaml": "kind: service\nname: x\n", "config.yaml": tc.text})
			file := filepath.Join(o.Dir, "config.yaml")
			before := o.Locate
			o.Locate = func(ctx context.Context) (doctor.Registry, error) {
				r, err := before(ctx)
				if text, _ := os.ReadFile(file); string(text) == "etcd:\n  endpoints: ["+etcd.Addr()+"]\n" {
					r.Etcd.Endpoints = []string{etcd.Addr()}
				}
				return r, err
			}
			setenv(&o, "EDITOR="+m.editor(file, `\[.*\]`, "["+etcd.Addr()+"]"))
			m.ends(o, "etcd", tc.says)
		})
	}
}

func TestRemedyOneOfSeveralEtcdsIsAway(t *testing.T) {
	t.Parallel()
	m, etcd, gone := newMachine(t), startEtcd(t, ""), closedAddr(t)
	o := options(t, "NEWSVC_ETCD", gone, etcd.Addr())
	f := finding(t, run(t, o), "etcd")
	m.paste(&o, f)
	if !slices.Contains(o.Environ, "NEWSVC_ETCD="+etcd.Addr()) {
		t.Errorf("after %s the environment is %q", f.Fix, o.Environ)
	}
	o = options(t, "--etcd", gone, etcd.Addr())
	if f := finding(t, run(t, o), "etcd"); f.Fix != "newsvc doctor --etcd "+etcd.Addr() {
		t.Errorf("the remedy is %s", f.Fix)
	}
}

// TestRemedyNewsvcDevThatIsFrozen plays newsvc dev by this binary: a process with an etcd of its own, which drains as it is told to.
func TestRemedyNewsvcDevThatIsFrozen(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dev := exec.CommandContext(t.Context(), self)
	dev.Env = append(os.Environ(), "DOCTOR_TEST_DEV="+t.TempDir())
	out, err := dev.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dev.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	if _, err := fmt.Fscanln(out, &addr); err != nil {
		t.Fatal(errors.Join(err, dev.Wait()))
	}
	o := options(t, ".newsvc/dev.json", addr)
	before := o.Locate
	ended := make(chan error, 1)
	gone := false
	o.Locate = func(ctx context.Context) (doctor.Registry, error) {
		r, err := before(ctx)
		if r.Devs = []int{dev.Process.Pid}; gone {
			r.How, r.Devs = "default", nil
		}
		return r, err
	}
	if err := dev.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	f := finding(t, run(t, o), "etcd")
	if !strings.HasSuffix(f.What, addr+" cannot be reached: no answer") {
		t.Errorf("it says %q", f.What)
	}
	m.paste(&o, f)
	go func() { ended <- dev.Wait() }()
	if err := <-ended; err != nil {
		t.Errorf("after %s newsvc dev ended with %v, want a clean end", f.Fix, err)
	}
	gone = true
	if got := level(run(t, o), "etcd"); got != doctor.Skip {
		t.Errorf("after %s etcd is %q", f.Fix, got)
	}
}

// TestRemedyLoopbackInTheRegistry restarts the service with what was pasted: its configuration is read as the service would, and
// what it says is registered.
func TestRemedyLoopbackInTheRegistry(t *testing.T) {
	t.Parallel()
	m, host := newMachine(t), ownAddr(t)
	etcd := startEtcd(t, net.JoinHostPort(host, "0"))
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	lease := clientv3.WithLease(grant(t, etcd.Client()))
	put(t, etcd.Client(), "user-service", "127.0.0.1:"+port, lease)
	o := options(t, "--etcd", etcd.Addr())
	f := finding(t, run(t, o), "advertise")
	m.paste(&o, f)
	c, err := config.LoadOnly(config.Sources{Service: "user-service", Environ: o.Environ, NoFile: true}, []string{"registration"},
		stack.Sections(nil)[slices.IndexFunc(stack.Sections(nil), func(s config.Section) bool { return s.Path == "registration" })])
	if err != nil {
		t.Fatal(err)
	}
	r, err := config.Get[stack.RegistrationConfig](c, "registration")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Client().Delete(t.Context(), discovery.Key(prefix, "user-service", "127.0.0.1:"+port)); err != nil {
		t.Fatal(err)
	}
	put(t, etcd.Client(), "user-service", net.JoinHostPort(r.Advertise, port), lease)
	after := run(t, o)
	if after.Findings() && level(after, "advertise") != "" || level(after, "instances") != doctor.OK {
		t.Errorf("after %s: %+v", f.Fix, after)
	}
}

// TestEtcdctlIsToldHowToTalkToEtcd: without TLS and user the pasted command would get no answer.
func TestEtcdctlIsToldHowToTalkToEtcd(t *testing.T) {
	t.Parallel()
	r := doctor.Registry{}
	r.Etcd.TLS = certs.ClientConfig{CA: "/my certs/ca.pem", Cert: "/c.pem", Key: "/k.pem"}
	r.Etcd.Username, r.Etcd.Password = "ops", "geheim"
	want := `etcdctl --endpoints=https://10.0.0.5:2379 --cacert='/my certs/ca.pem' --cert=/c.pem --key=/k.pem --user=ops`
	if got := r.Etcdctl("10.0.0.5:2379"); got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
}

// TestSeveralNewsvcDev: what locate says in words becomes a command.
func TestSeveralNewsvcDev(t *testing.T) {
	t.Parallel()
	o := options(t, "", "")
	o.Locate = func(context.Context) (doctor.Registry, error) {
		return doctor.Registry{}, &problem.Error{Exit: problem.Conflict, What: "2 newsvc dev run on this machine", Fix: "-C /my project      or --etcd 127.0.0.1:41"}
	}
	if f := finding(t, run(t, o), "etcd"); f.Fix != "newsvc doctor --etcd 127.0.0.1:41" {
		t.Errorf("the remedy is %s", f.Fix)
	}
	o.Locate = func(context.Context) (doctor.Registry, error) {
		return doctor.Registry{}, &problem.Error{Exit: problem.Usage, What: "--prefix: x", Fix: "--prefix /newsvc/default"}
	}
	if _, err := doctor.Run(t.Context(), o); problem.Code(err) != problem.Usage {
		t.Errorf("a flag that is wrong: %v, want an error of usage", err)
	}
}

// TestPlacesStandInOneColumn has a finding with several places, which errors indent as their own lines are.
func TestPlacesStandInOneColumn(t *testing.T) {
	t.Parallel()
	r := doctor.Report{Checks: []doctor.Finding{{Level: doctor.Fail, Check: "etcd", What: "two of them", At: "one\n       two", Fix: "choose"}}, Problems: 1}
	var got strings.Builder
	r.Print(&got)
	const want = `FAIL  etcd       two of them
                 at: one
                     two
                fix: choose
1 problem, 0 warnings
`
	if got.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}
