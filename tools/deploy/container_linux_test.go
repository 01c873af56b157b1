package deploy_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// contained is the variable by which this binary, started again, becomes a container: its value is the directory of the image.
const contained = "DEPLOY_TEST_IMAGE"

// enter makes the directory of an image, read-only, the root of this process, gives up all rights, as the manifest has it, and becomes
// the entry point. It returns only when that cannot be done. It needs a mount namespace of its own.
func enter(root string) error {
	for _, step := range []func() error{
		func() error { return syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "") },
		func() error { return syscall.Mount(root, root, "", syscall.MS_BIND, "") },
		func() error {
			return syscall.Mount("", root, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		},
		func() error { return syscall.Chroot(root) },
		func() error { return syscall.Chdir("/app") },
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setgid(65532) },
		func() error { return syscall.Setuid(65532) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return syscall.Exec("/app/service", []string{"/app/service"}, os.Environ())
}

// TestServiceRunsAsTheManifestHasIt starts the image's binary as the pod would: its root file system is the image's, read-only, its user has
// no rights, its variables are those of the manifest. It registers with a real etcd, is called by its name, and is gone after the stop.
func TestServiceRunsAsTheManifestHasIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may make a mount namespace")
	}
	p := create(t, "service")
	i := build(t, p)
	base := i.roots[""]
	for _, dir := range []string{base, filepath.Dir(base)} { // the user of the image has to get there
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	etcd := startCluster(t, false)
	_, _, c := pod(t, p)
	env := []string{contained + "=" + base}
	for _, e := range c.Env {
		switch {
		case e.Name == "POD_IP":
			e.Value = ownIP(t)
		case strings.HasSuffix(e.Name, "ETCD__ENDPOINTS"):
			e.Value = strings.TrimPrefix(etcd.endpoint, "http://")
		case strings.HasSuffix(e.Name, "ADMIN__LISTEN"): // a port of its own: other tests run on this machine
			e.Value = ":0"
		}
		env = append(env, e.Name+"="+e.Value)
	}
	env = append(env, "BLOGGER_USER__SERVER__LISTEN=:0")

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	service := exec.CommandContext(ctx, self)
	service.Env, service.Dir = env, "/" // nothing else of this machine
	service.Stdout, service.Stderr = log, log
	service.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := service.Start(); err != nil {
		t.Skipf("no mount namespace here: %v", err)
	}
	said := func() string {
		text, _ := os.ReadFile(log.Name())
		return string(text)
	}
	for etcd.etcdctl("get", "--prefix", "--keys-only", "/newsvc/default/blogger-user/") == "" {
		if err := ctx.Err(); err != nil || strings.Contains(said(), "operation not permitted") {
			t.Fatalf("it does not register (%v):\n%s", err, said())
		}
	}
	out, err := try(t, p.top, nil, filepath.Join(bin, "newsvc"), "call", "blogger-user", "Ping", "-d", `{"message":"hi"}`, "--etcd", etcd.endpoint, "--proto", "proto", "--timeout", "60s")
	if err != nil || !strings.Contains(out, "hi") {
		t.Errorf("newsvc call: %s, %v", out, err)
	}
	if err := service.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := service.Wait(); err != nil {
		t.Errorf("the service ended with %v", err)
	}
	if keys := etcd.etcdctl("get", "--prefix", "--keys-only", "/newsvc/default"); keys != "" {
		t.Errorf("after the stop %s is registered", keys)
	}
	for _, bad := range []string{"read-only file system", "permission denied", "no such file", `"level":"error"`} {
		if strings.Contains(said(), bad) {
			t.Errorf("it says %q", bad)
		}
	}
	if t.Failed() {
		t.Log(said())
	}
}

// ownIP is an address of this machine that others could reach, as that of a pod is.
func ownIP(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Skip("this machine has no address besides loopback")
	return ""
}
