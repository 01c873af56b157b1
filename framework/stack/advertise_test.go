package stack_test

import (
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/stack"
)

func TestA26AdvertisedAddress(t *testing.T) {
	t.Parallel()
	type query = stack.AdvertiseQuery
	for name, c := range map[string]struct {
		query
		want string // or, with a leading !, what the error must say
	}{
		"explicit host":              {query{Explicit: "10.0.0.7", Listen: "[::]:9000"}, "10.0.0.7:9000"},
		"explicit host and port":     {query{Explicit: "10.0.0.7:7000", Listen: "[::]:9000"}, "10.0.0.7:7000"},
		"explicit wins":              {query{Explicit: "a.example", Listen: "10.1.1.1:9000", PodIP: "10.2.2.2"}, "a.example:9000"},
		"explicit IPv6":              {query{Explicit: "2001:db8::1", Listen: "[::]:9000"}, "[2001:db8::1]:9000"},
		"explicit IPv6 in brackets":  {query{Explicit: "[2001:db8::1]", Listen: "[::]:9000"}, "[2001:db8::1]:9000"},
		"explicit IPv6 and port":     {query{Explicit: "[2001:db8::1]:7000", Listen: "[::]:9000"}, "[2001:db8::1]:7000"},
		"explicit wildcard":          {query{Explicit: "0.0.0.0:7000", Listen: "[::]:9000"}, "!0.0.0.0"},
		"explicit IPv6 wildcard":     {query{Explicit: "[::]:7000", Listen: "[::]:9000"}, "![::]"},
		"explicit port 0":            {query{Explicit: "10.0.0.7:0", Listen: "[::]:9000"}, "!10.0.0.7:0"},
		"listen host":                {query{Listen: "10.1.1.1:9000", PodIP: "10.2.2.2"}, "10.1.1.1:9000"},
		"POD_IP":                     {query{Listen: "[::]:9000", PodIP: "10.2.2.2"}, "10.2.2.2:9000"},
		"POD_IP of version 6":        {query{Listen: "0.0.0.0:9000", PodIP: "2001:db8::2"}, "[2001:db8::2]:9000"},
		"loopback":                   {query{Listen: "127.0.0.1:9000"}, "!set registration.advertise"},
		"loopback of version 6":      {query{Listen: "[::1]:9000"}, "!set registration.advertise"},
		"localhost":                  {query{Explicit: "localhost:9000", Listen: "[::]:9000"}, "!NEWSVC_DEV=1"},
		"link-local":                 {query{Explicit: "169.254.1.1:9000", Listen: "[::]:9000"}, "!registration.advertise"},
		"loopback under development": {query{Listen: "127.0.0.1:9000", Loopback: true}, "127.0.0.1:9000"},
		"loopback route":             {query{Listen: "[::]:9000", Etcd: []string{"127.0.0.1:2379"}}, "!the route to etcd"},
		"route":                      {query{Listen: "[::]:9000", Etcd: []string{"http://127.0.0.1:2379"}, Loopback: true}, "127.0.0.1:9000"},
		"second endpoint's route":    {query{Listen: "[::]:9000", Etcd: []string{"bad endpoint", "127.0.0.1:2379"}, Loopback: true}, "127.0.0.1:9000"},
		"no route":                   {query{Listen: "[::]:9000", Etcd: []string{"bad endpoint"}}, "!set registration.advertise"},
		"no port":                    {query{Listen: "pipe"}, "!set registration.advertise"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := stack.Advertise(t.Context(), c.query)
			if part, ok := strings.CutPrefix(c.want, "!"); ok {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %q, %v; want an error about %q", got, err, part)
				}
			} else if got != c.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestAdminAddressIsToldWhereItCanBeReached(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ admin, advertised, want string }{
		{"[::]:9001", "10.0.0.7:9000", "10.0.0.7:9001"},
		{"0.0.0.0:9001", "[2001:db8::1]:9000", "[2001:db8::1]:9001"},
		{"127.0.0.1:9001", "10.0.0.7:9000", ""},
		{"127.0.0.1:9001", "127.0.0.1:9000", "127.0.0.1:9001"},
		{"10.0.0.8:9001", "10.0.0.7:9000", "10.0.0.8:9001"},
		{"", "10.0.0.7:9000", ""},
	} {
		if got := stack.Reachable(c.admin, c.advertised); got != c.want {
			t.Errorf("admin %q of %q is told as %q, want %q", c.admin, c.advertised, got, c.want)
		}
	}
}
