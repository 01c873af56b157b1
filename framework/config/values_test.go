package config_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/config"
)

func TestValuesListEveryKey(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "server: {timeout: 1h, from: 10.0.0.0/8, quota: {eu: {rate: 1}}}\n", nil)
	var got []string
	for _, v := range c.Values() {
		if strings.HasPrefix(v.Key, "server.") {
			got = append(got, v.Key+" = "+v.Text()+" | "+v.Source+" | "+v.Reload)
		}
	}
	want := []string{
		`server.accept_names = ["one"] | default | restart`,
		`server.from = 10.0.0.0/8 | config.yaml:1 | restart`,
		`server.labels.team = core | default | restart`,
		`server.listen = :9000 | default | restart`,
		`server.max = 10 | default | restart`,
		`server.quota.eu.burst = 0 | default | restart`,
		`server.quota.eu.rate = 1 | config.yaml:1 | restart`,
		`server.reflect = false | default | restart`,
		`server.rules = [] | default | restart`,
		`server.share = 0.5 | default | restart`,
		`server.size = 0 | default | restart`,
		`server.timeout = 1h | config.yaml:1 | live`,
		`server.tiny = 0 | default | restart`,
		`server.tls.cert =  | default | redial`,
		`server.tls.key =  | default | live`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(c.Values(), func(a, b config.Value) int { return strings.Compare(a.Key, b.Key) }) {
		t.Error("values are not sorted by key")
	}
}

func TestAnEmptyMapIsOneValue(t *testing.T) {
	t.Parallel()
	c, err := config.Load(config.Sources{NoFile: true}, config.Section{Path: "s", Defaults: struct {
		M map[string]string `config:"m"`
	}{}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]config.Value{{Key: "s.m", Value: map[string]any{}, Source: "default", Reload: "restart"}}, c.Values()); diff != "" {
		t.Error(diff)
	}
}

func TestDurationsAreShownShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", time.Minute: "1m", time.Hour: "1h", 90 * time.Minute: "1h30m", 10 * time.Second: "10s",
		time.Hour + time.Second: "1h0m1s", 100 * time.Minute: "1h40m", 10 * time.Minute: "10m", -time.Minute: "-1m", 1500 * time.Millisecond: "1.5s",
	} {
		c, err := config.Load(config.Sources{NoFile: true}, config.Section{Path: "s", Defaults: struct {
			D time.Duration `config:"d"`
		}{d}})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Values()[0].Text(); got != want {
			t.Errorf("%v is shown as %q, want %q", d, got, want)
		}
	}
}

func TestHandlerServesJSON(t *testing.T) {
	t.Parallel()
	h := mustLoad(t, "server: {max: 3}", nil).Handler()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	var got struct {
		Service string
		Sources []string
		Values  []config.Value
	}
	if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(got.Values, func(v config.Value) bool { return v.Key == "server.max" })
	if got.Service != "blogger-user" || len(got.Sources) != 2 || i < 0 {
		t.Fatalf("answer = %s", rec.Body)
	}
	if diff := cmp.Diff(config.Value{Key: "server.max", Value: 3.0, Source: "config.yaml:1", Reload: "restart"}, got.Values[i]); diff != "" {
		t.Error(diff)
	}
	rec = httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", nil))
	if rec.Code != http.StatusMethodNotAllowed || rec.Body.String() != "method \"POST\" is not allowed; use GET\n" {
		t.Errorf("POST gives %d %q", rec.Code, rec.Body)
	}
}

func TestSchemaDescribesTheFile(t *testing.T) {
	t.Parallel()
	c, err := config.Load(config.Sources{Service: "blog", NoFile: true, Args: []string{"--set", "a.n=7"}},
		config.Section{Path: "a", Defaults: struct {
			N uint8             `config:"n"`
			D time.Duration     `config:"d"`
			B bool              `config:"b"`
			F float64           `config:"f"`
			P string            `config:"p" secret:"true"`
			L []rule            `config:"l"`
			M map[string]string `config:"m"`
			I int               `config:"i"`
		}{N: 1, D: time.Second, P: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(c.Schema())
	if err != nil {
		t.Fatal(err)
	}
	const dur = `^[-+]?(0|(([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	want := `{"$schema":"https://json-schema.org/draft/2020-12/schema","additionalProperties":false,"properties":{"a":{"additionalProperties":false,"properties":{` +
		`"b":{"default":false,"type":"boolean"},` +
		`"d":{"default":"1s","pattern":"` + dur + `","type":"string"},` +
		`"f":{"default":0,"type":"number"},` +
		`"i":{"default":0,"type":"integer"},` +
		`"l":{"default":[],"items":{"additionalProperties":false,"properties":{"after":{"pattern":"` + dur + `","type":"string"},"path":{"type":"string"},"token":{"writeOnly":true}},"type":"object"},"type":"array"},` +
		`"m":{"additionalProperties":{"type":"string"},"default":{},"type":["object","null"]},` +
		`"n":{"default":1,"minimum":0,"type":"integer"},` +
		`"p":{"type":"string","writeOnly":true}` +
		`},"type":["object","null"]}},"title":"blog","type":["object","null"]}`
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Errorf("schema (-want +got):\n%s", diff)
	}
}

func TestSectionsMayShareAGroup(t *testing.T) {
	t.Parallel()
	type outer struct {
		Prefix string `config:"prefix"`
	}
	c, err := config.Load(config.Sources{NoFile: true, Args: []string{"--set", "d.prefix=/x", "--set", "d.guard.rate=2"}},
		config.Section{Path: "d.guard", Defaults: quota{}}, config.Section{Path: "d", Defaults: outer{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := get[quota](t, c, "d.guard"); got.Rate != 2 {
		t.Errorf("d.guard = %+v", got)
	}
	if got := get[outer](t, c, "d"); got.Prefix != "/x" {
		t.Errorf("d = %+v", got)
	}
	if diff := cmp.Diff([]string{"d", "d.guard"}, c.Sections()); diff != "" {
		t.Error(diff)
	}
}

func TestEmbeddedFieldsCountAsOwn(t *testing.T) {
	t.Parallel()
	type C struct {
		tlsConfig
		Extra map[string]string `config:"extra"`
	}
	c, err := config.Load(config.Sources{NoFile: true, Args: []string{"--set", "s.cert=c.pem"}}, config.Section{Path: "s", Defaults: C{}})
	if err != nil {
		t.Fatal(err)
	}
	if got := get[C](t, c, "s"); got.Cert != "c.pem" {
		t.Errorf("s = %+v", got)
	}
}
