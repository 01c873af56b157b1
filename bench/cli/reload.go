package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	started  = 2 * time.Minute // newsvc dev builds first
	reloaded = time.Minute     // longer than this is no reload
	method   = "/blogger_user.v1.BloggerUserService/Ping"
)

// reloading is the median of several saves: the build in it, and all of it.
type reloading struct{ build, total time.Duration }

// reload saves changes under a running newsvc dev and waits for the first answer that shows each.
func (b *bench) reload(ctx context.Context, project string, saves int) (r reloading, err error) {
	source := filepath.Join(project, "internal", "bloggeruser", "ping.go")
	text, err := os.ReadFile(source)
	if err != nil {
		return r, err
	}
	version := func(i int) error {
		return os.WriteFile(source, []byte(strings.Replace(string(text), "req.GetMessage()", fmt.Sprintf(`"v%d " + req.GetMessage()`, i), 1)), 0o644)
	}
	if !strings.Contains(string(text), "req.GetMessage()") {
		return r, fmt.Errorf("%s does not answer with req.GetMessage() any more", source)
	}
	if err := version(0); err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, b.newsvc, "dev")
	cmd.Dir, cmd.Env = project, append(slices.Clone(b.env), "PWD="+project)
	log, err := os.Create(filepath.Join(b.dir, "dev.log"))
	if err != nil {
		return r, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return r, err
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Signal(os.Interrupt))
		_ = cmd.Wait() // 0, or 1 when calls were cut: nobody calls any more
	}()
	if err := answers(ctx, project, "v0 ", started); err != nil {
		return r, b.withLog(err)
	}
	r.total, err = b.median(saves, func(i int) error {
		return errors.Join(version(i+1), answers(ctx, project, fmt.Sprintf("v%d ", i+1), reloaded))
	})
	if err == nil {
		r.build, err = b.builds(saves)
	}
	if err != nil {
		return r, b.withLog(err)
	}
	return r, nil
}

// builtIn is what newsvc dev says of a reload.
var builtIn = regexp.MustCompile(`reload: .*: built in ([0-9.]+m?s),`)

// builds is the median of what the builds of the reloads took, as newsvc dev tells: one at another time, when the machine has more
// or less to do, would be compared with nothing.
func (b *bench) builds(saves int) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(b.dir, "dev.log"))
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	for _, m := range builtIn.FindAllStringSubmatch(string(text), -1) {
		d, err := time.ParseDuration(m[1])
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	if len(all) < saves-1 { // the line of the last one may come after its answer
		return 0, fmt.Errorf("newsvc dev tells of %d builds for %d saves", len(all), saves)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

func (b *bench) withLog(err error) error {
	text, _ := os.ReadFile(filepath.Join(b.dir, "dev.log"))
	return fmt.Errorf("%w; newsvc dev said:\n%s", err, text)
}

// answers asks until the service answers with a prefix.
func answers(ctx context.Context, project, prefix string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last := "nothing"
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer began with %q within %v; the last was %s", prefix, within, last)
		case <-tick.C:
		}
		addr := address(project)
		if addr == "" {
			continue
		}
		got, err := ping(ctx, addr)
		if err != nil {
			last = err.Error()
			continue
		}
		if last = got; strings.HasPrefix(got, prefix) {
			return nil
		}
	}
}

// address is where newsvc dev says that the newest instance serves.
func address(project string) string {
	text, err := os.ReadFile(filepath.Join(project, ".newsvc", "dev.json"))
	if err != nil {
		return ""
	}
	var record struct {
		Services map[string]struct {
			Instances []struct {
				GRPC string `json:"grpc"`
			} `json:"instances"`
		} `json:"services"`
	}
	if json.Unmarshal(text, &record) != nil {
		return ""
	}
	instances := record.Services[service].Instances
	if len(instances) == 0 {
		return ""
	}
	return instances[len(instances)-1].GRPC
}

// ping calls the service. Its messages have one text as field 1, as StringValue has.
func ping(ctx context.Context, addr string) (string, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(service))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var reply wrapperspb.StringValue
	err = conn.Invoke(ctx, method, wrapperspb.String("hi"), &reply)
	return reply.GetValue(), err
}
