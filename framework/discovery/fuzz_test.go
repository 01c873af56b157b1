package discovery_test

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/newsvc/newsvc/framework/discovery"
)

// FuzzDecode looks for values that break the decoder, or that say one thing when read and another when written again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "{", "x", "10.0.0.1:9000", " 10.0.0.1:9000\n", "[::1]:9000", "0.0.0.0:0",
		`{"Op":0,"Addr":"10.0.0.1:9000"}`, `{"Op":1,"Addr":"10.0.0.1:9000","Metadata":null}`, `{"Addr":"10.0.0.1:9000","Metadata":"text"}`,
		`{"Op":0,"Addr":"10.0.0.1:9000","Metadata":{"incarnation":"i","state":"draining","version":"1","weight":7,"zone":"z","admin":"10.0.0.1:9001","meta":{"a":"b"}}}`,
		`{"Op":0,"Addr":"10.0.0.1:9000","Metadata":{"incarnation":7,"weight":-1}}`, `{"Addr":"10.0.0.1:9000","Metadata":{"weight":1e300,"zone":3,"state":"draining","x":"y"}}`,
		`{"addr":"10.0.0.1:9000","METADATA":{"Incarnation":"i"}}`, strings.Repeat("[", 100000), strings.Repeat(`{"Metadata":`, 5000),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		inst, err := discovery.Decode("user-service", value)
		if err != nil {
			if len(value) > discovery.MaxValueSize && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if err := discovery.CheckAddr(inst.Addr); err != nil || inst.Service != "user-service" || inst.Weight < 0 {
			t.Fatalf("a bad instance was read: %+v, %v", inst, err)
		}
		if inst.State != discovery.StateUp && inst.State != discovery.StateDraining {
			t.Fatalf("unknown state %q was read", inst.State)
		}
		again, err := discovery.Encode(inst)
		if err != nil {
			t.Fatalf("what was read can't be written: %v", err)
		}
		if len(again) > discovery.MaxValueSize {
			return // written with escapes it is longer than it was
		}
		same, err := discovery.Decode("user-service", again)
		if err != nil {
			t.Fatalf("what was written can't be read: %v\n%s", err, again)
		}
		if len(same.Metadata) == 0 && len(inst.Metadata) == 0 {
			same.Metadata = inst.Metadata
		}
		if !same.Equal(inst) {
			t.Fatalf("read %+v, then %+v", inst, same)
		}
	})
}

// FuzzEncode looks for instances that are another one after having been written and read.
func FuzzEncode(f *testing.F) {
	f.Add("10.0.0.1:9000", "inc", "up", "v1", 1, "zone", "10.0.0.1:9001", "k", "v")
	f.Add("[::1]:1", "", "draining", "", 0, "", "", "", "")
	f.Add("host:65535", "\x00", "", "\u2028<>&", 1<<30, "\xff", "\"", "\\", "é")
	f.Fuzz(func(t *testing.T, addr, inc, state, version string, weight int, zone, admin, key, value string) {
		in := &discovery.Instance{
			Service: "user-service", Addr: addr, Incarnation: inc, State: discovery.State(state), Version: version,
			Weight: weight, Zone: zone, Admin: admin, Metadata: map[string]string{key: value},
		}
		data, err := discovery.Encode(in)
		if err != nil {
			if discovery.CheckAddr(addr) == nil && weight >= 0 {
				t.Errorf("a good instance can't be written: %v", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("no JSON: %s", data)
		}
		out, err := discovery.Decode("user-service", data)
		if err != nil {
			if state == "" || state == "up" || state == "draining" {
				if len(data) <= discovery.MaxValueSize && inc != "" {
					t.Errorf("what was written can't be read: %v", err)
				}
			}
			return
		}
		for _, text := range []string{inc, version, zone, admin, key, value} {
			if !utf8.ValidString(text) {
				return // JSON holds text only
			}
		}
		if in.State == "" {
			in.State = discovery.StateUp
		}
		if inc != "" && !out.Equal(in) {
			t.Errorf("wrote %+v, read %+v", in, out)
		}
	})
}

// FuzzParseKey looks for keys that belong to two services, or to none though they were made for one.
func FuzzParseKey(f *testing.F) {
	for _, seed := range [][2]string{
		{"/newsvc/default", "/newsvc/default/user-service/10.0.0.1:9000"}, {"", "//"}, {"/", "/a/b"}, {"/a", "/a/user"}, {"/a", "/a/user/"},
		{"/a", "/a/user/x/y"}, {"/a", "/ab/user/x"}, {"/grpcEtcd", "/grpcEtcd/user/10.0.0.1:9000"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, prefix, key string) {
		service, rest, ok := discovery.ParseKey(prefix, key)
		if !ok {
			return
		}
		if err := discovery.CheckService(service); err != nil || rest == "" {
			t.Fatalf("key %q belongs to %q, rest %q: %v", key, service, rest, err)
		}
		if again := discovery.Key(prefix, service, rest); again != key {
			t.Fatalf("key %q was taken apart and put together as %q", key, again)
		}
	})
}

// FuzzKey looks for names and addresses that pass their checks and can't be found in their key again.
func FuzzKey(f *testing.F) {
	f.Add("/newsvc/default", "user-service", "10.0.0.1:9000")
	f.Add("/a/b", "u", "[fe80::1%eth0]:1")
	f.Add("/\x00", "a-1", "h:1")
	f.Fuzz(func(t *testing.T, prefix, service, addr string) {
		if discovery.CheckPrefix(prefix) != nil || discovery.CheckService(service) != nil || discovery.CheckAddr(addr) != nil {
			return
		}
		key := discovery.Key(prefix, service, addr)
		s, a, ok := discovery.ParseKey(prefix, key)
		if !ok || s != service || a != addr {
			t.Fatalf("%q is found as %q, %q, %v", key, s, a, ok)
		}
		if other := discovery.ServicePrefix(prefix, service+"-admin"); strings.HasPrefix(key, other) || strings.HasPrefix(other, discovery.ServicePrefix(prefix, service)) {
			t.Fatalf("%q and %q get in each other's way", key, other)
		}
	})
}

// FuzzCheckService looks for names that pass though something else would stumble over them.
func FuzzCheckService(f *testing.F) {
	for _, seed := range []string{"", "a", "user-service", "User", "a--b", "-a", "a-", "a_b", "v2", "con", "internal", "newsvc", "ａ", "a\n", strings.Repeat("a", 51)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		err := discovery.CheckService(name)
		if err != nil {
			return
		}
		if len(name) == 0 || len(name) > discovery.MaxServiceLength || name != strings.ToLower(name) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Fatalf("%q passed", name)
		}
		if strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Contains(name, "--") {
			t.Fatalf("%q passed", name)
		}
	})
}

// FuzzCheckAddr looks for addresses that pass and can't be dialled.
func FuzzCheckAddr(f *testing.F) {
	for _, seed := range []string{
		"", ":", ":9000", "h:0", "h:65536", "h:-1", "h:+1", "h:01", "h:http", "0.0.0.0:1", "[::]:1", "::1:1", "[::1]:1", "[fe80::1%eth0]:1", "a b:1", "é:1",
		"224.0.0.1:1", "[::ffff:0.0.0.0]:1", "h:1\n", "127.0.0.1:1", "[h]:1", "-:1", ".:1", "[]:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, addr string) {
		if discovery.CheckAddr(addr) != nil {
			return
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || port == "" {
			t.Fatalf("%q passed", addr)
		}
		if ip := net.ParseIP(host); ip != nil && (ip.IsUnspecified() || ip.IsMulticast()) {
			t.Fatalf("%q passed, which nobody can dial", addr)
		}
		if strings.ContainsAny(addr, " \t\r\n/?#@\x00") {
			t.Fatalf("%q passed", addr)
		}
		if n, err := net.LookupPort("tcp", port); err != nil || n < 1 || n > 65535 {
			t.Fatalf("%q passed with port %q", addr, port)
		}
	})
}

// FuzzCheckPrefix looks for prefixes that pass and under which keys get lost.
func FuzzCheckPrefix(f *testing.F) {
	for _, seed := range []string{"", "/", "/a", "/a/", "//a", "/a//b", "a", "/newsvc/default", "/\x00", "/\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, prefix string) {
		if discovery.CheckPrefix(prefix) != nil {
			return
		}
		key := discovery.Key(prefix, "user-service", "10.0.0.1:9000")
		if s, a, ok := discovery.ParseKey(prefix, key); !ok || s != "user-service" || a != "10.0.0.1:9000" {
			t.Fatalf("under %q the key %q is %q %q %v", prefix, key, s, a, ok)
		}
	})
}
