package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/newsvc/newsvc/framework/config"
	"github.com/newsvc/newsvc/framework/stack"
)

// fileLine is how a configuration names a place in a file.
var fileLine = regexp.MustCompile(`^(.+\.ya?ml):([0-9]+)`)

// sections are what doctor reads of a service's configuration: what the service itself declares is not known here.
func sections() []string { return []string{"server", "admin", "http", "registration"} }

// settings reads the configuration of the service around, and looks at what it makes the service do on this machine.
func (x *examination) settings(ctx context.Context) []Finding {
	if x.place.ServiceDir == "" {
		return nil
	}
	var known []config.Section
	for _, s := range stack.Sections(nil) {
		if slices.Contains(sections(), s.Path) {
			known = append(known, s)
		}
	}
	c, err := config.LoadOnly(config.Sources{Service: x.place.ServiceName, Environ: x.Environ, Dir: x.place.ServiceDir}, sections(), known...)
	if err != nil {
		f := Finding{Level: Fail, What: "the configuration of " + x.place.ServiceName + " is refused", At: err.Error(), Fix: edit(filepath.Join(x.place.ServiceDir, "config.yaml"))}
		if wrong, ok := errors.AsType[*config.Error](err); ok {
			f.Fix = x.correct(wrong)
			if len(wrong.Problems) == 1 {
				f.What += ": " + wrong.Problems[0].String()
				f.At = ""
			}
		}
		return []Finding{f}
	}
	found := append(x.advertised(c), x.ports(ctx, c)...)
	if len(found) == 0 {
		return one(OK, "the settings of %s can be read, and its ports are free", x.place.ServiceName)
	}
	return found
}

// advertised finds an address that only this machine can reach.
func (x *examination) advertised(c *config.Config) []Finding {
	r, err := config.Get[stack.RegistrationConfig](c, "registration")
	if err != nil || r.Advertise == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(r.Advertise)
	if err != nil {
		host = r.Advertise
	}
	if !loopback(host) {
		return nil
	}
	f := Finding{
		Check: "advertise", Level: Fail, At: c.Origin("registration.advertise"),
		What: fmt.Sprintf("registration.advertise %q is an address that other machines cannot reach", r.Advertise),
	}
	f.Fix = "unset " + config.EnvName(x.place.ServiceName, "registration.advertise")
	if m := fileLine.FindStringSubmatch(f.At); m != nil {
		f.Fix = dropLine(absolute(x.place.ServiceDir, m[1]), m[2], "advertise:")
		f.At = filepath.Join(x.place.ServiceDir, filepath.Base(m[1])) + ":" + m[2]
	}
	return []Finding{f}
}

// dropLine is the command that takes a setting out of a file: its line, where nothing else is on it.
func dropLine(file, number, setting string) string {
	text, err := os.ReadFile(file)
	n, _ := strconv.Atoi(number)
	lines := strings.Split(string(text), "\n")
	if err != nil || n < 1 || n > len(lines) || !strings.HasPrefix(strings.TrimSpace(lines[n-1]), setting) {
		return edit(file)
	}
	return fmt.Sprintf("sed -i.bak %dd %s", n, quote(file))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// ports finds listeners on the ports that "go run ." would take. newsvc dev takes free ones.
func (x *examination) ports(ctx context.Context, c *config.Config) []Finding {
	var found []Finding
	values := c.Values()
	for _, key := range []string{"server.listen", "admin.listen"} {
		i := slices.IndexFunc(values, func(v config.Value) bool { return v.Key == key })
		if i < 0 {
			continue
		}
		listen := fmt.Sprint(values[i].Value)
		host, port, err := net.SplitHostPort(listen)
		if err != nil || port == "0" {
			continue
		}
		free := "127.0.0.1:0"
		if host == "" || host == "0.0.0.0" || host == "::" {
			host, free = "127.0.0.1", ":0"
		}
		if !listens(ctx, net.JoinHostPort(host, port)) {
			continue
		}
		found = append(found, Finding{
			Check: "ports", Level: Warn, What: fmt.Sprintf("something listens on %s, so \"go run .\" cannot start; newsvc dev can, it takes free ports", listen),
			At: key + ": " + c.Origin(key), Fix: fmt.Sprintf("export %s=%s", config.EnvName(x.place.ServiceName, key), free),
		})
	}
	return found
}

// listens reports whether a connection to addr can be made.
func listens(ctx context.Context, addr string) bool {
	d := net.Dialer{Timeout: 500 * time.Millisecond}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
