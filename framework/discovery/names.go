package discovery

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// DefaultPrefix is where instances are kept in etcd unless configured otherwise.
const DefaultPrefix = "/newsvc/default"

// MaxServiceLength is the longest service name: a DNS label's 63 bytes less what deployments append.
const MaxServiceLength = 50

var (
	serviceName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	majorName   = regexp.MustCompile(`^v[0-9]+$`)
	deviceName  = regexp.MustCompile(`^(con|nul|aux|prn|com[1-9]|lpt[1-9])$`)
)

// CheckService returns nil when name may name a service: lower-case letters, digits and single dashes, beginning with
// a letter, at most [MaxServiceLength] bytes, and none of the names that the go command or Windows treat specially.
func CheckService(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("service name is empty; use lower-case letters, digits and single dashes, for example %q", "blogger-user")
	case len(name) > MaxServiceLength:
		return fmt.Errorf("service name %q has %d bytes; at most %d are allowed", name, len(name), MaxServiceLength)
	case !serviceName.MatchString(name):
		return fmt.Errorf("%q is not a service name; use lower-case letters, digits and single dashes, beginning with a letter", name)
	case majorName.MatchString(name):
		return fmt.Errorf("%q cannot be a service name: a module path that ends so means a major version; choose another", name)
	case deviceName.MatchString(name):
		return fmt.Errorf("%q cannot be a service name: it is a device name on Windows; choose another", name)
	}
	switch name {
	case "internal", "vendor", "testdata":
		return fmt.Errorf("%q cannot be a service name: the go command gives directories with that name a special meaning; choose another", name)
	case "newsvc":
		return fmt.Errorf("%q cannot be a service name: it is the framework's own; choose another", name)
	}
	return nil
}

// CheckAddr returns nil when addr can be dialled by others: host:port with a concrete host (IPv6 in brackets) and a
// port from 1 to 65535. Whether the host is reachable is not looked at; a loopback address passes.
func CheckAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not an address; write host:port, for example %q", addr, "10.0.0.7:9000")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %q has no port that can be dialled; use 1 to 65535", addr)
	}
	if host == "" {
		return fmt.Errorf("address %q has no host; say which one others can reach", addr)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap() // ::ffff:0.0.0.0 is no better than 0.0.0.0
		if ip.IsUnspecified() || ip.IsMulticast() {
			return fmt.Errorf("address %q is not one that others can dial; say which host they can reach", addr)
		}
		return nil
	}
	if strings.ContainsFunc(host, notHostname) {
		return fmt.Errorf("address %q has a host that is neither a name nor an IP address", addr)
	}
	return nil
}

func notHostname(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
}

// CheckPrefix returns nil when prefix may hold services: it begins with a slash, does not end with one, and has no
// empty part.
func CheckPrefix(prefix string) error {
	if !strings.HasPrefix(prefix, "/") || strings.HasSuffix(prefix, "/") || strings.Contains(prefix, "//") {
		return fmt.Errorf("%q is not a prefix; begin with a slash and end without one, for example %q", prefix, DefaultPrefix)
	}
	return nil
}

// ServicePrefix is the prefix of all keys of one service. It ends with a slash, so that the keys of "user" never
// include those of "user-admin".
func ServicePrefix(prefix, service string) string { return prefix + "/" + service + "/" }

// Key is where an instance is kept.
func Key(prefix, service, addr string) string { return ServicePrefix(prefix, service) + addr }

// ParseKey splits a key below prefix into the service and the rest, which is the address for instances that newsvc
// wrote. It reports false for keys elsewhere and for those that name no valid service.
func ParseKey(prefix, key string) (service, rest string, ok bool) {
	tail, ok := strings.CutPrefix(key, prefix+"/")
	if !ok {
		return "", "", false
	}
	service, rest, ok = strings.Cut(tail, "/")
	if !ok || rest == "" || CheckService(service) != nil {
		return "", "", false
	}
	return service, rest, true
}

// NoInstancesError says that a service has no instance to call.
type NoInstancesError struct {
	// Service is the callee.
	Service string
	// Where tells what was searched, for example the prefix; it may be empty.
	Where string
	// Err is why the source could not be read; nil when it was read and is empty.
	Err error
}

// Error names the service, where it was looked for and what to check.
func (e *NoInstancesError) Error() string {
	where := ""
	if e.Where != "" {
		where = " in " + e.Where
	}
	if e.Err != nil {
		return fmt.Sprintf("no instances of %q known%s: %v", e.Service, where, e.Err)
	}
	return fmt.Sprintf("no instances of %q%s; is it running and registered under the same prefix?", e.Service, where)
}

// Unwrap returns the source's error.
func (e *NoInstancesError) Unwrap() error { return e.Err }
