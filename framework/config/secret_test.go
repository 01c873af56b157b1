package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/config"
)

const secretFile = `etcd:
  password: 'hunter"22hunter'
  pin: 424242
  wait: 77m
  tokens: [hush-hush]
server:
  rules: [{path: /a, token: hunter22hunter}]
`

func noSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, s := range []string{"hunter", "424242", "77m", "1h17m", "hush"} {
		if strings.Contains(text, s) {
			t.Errorf("%s shows the secret %q:\n%s", where, s, text)
		}
	}
}

func TestSecretsAreHiddenInValues(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, secretFile, args("--set", "etcd.endpoints=e:1"))
	noSecret(t, "Values", fmt.Sprintf("%+v", c.Values()))
	noSecret(t, "Sources", fmt.Sprint(c.Sources()))
	rec := httptest.NewRecorder()
	c.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/", nil))
	noSecret(t, "Handler", rec.Body.String())
	schema, err := json.Marshal(c.Schema())
	if err != nil {
		t.Fatal(err)
	}
	noSecret(t, "Schema", string(schema))
	got := map[string]string{}
	for _, v := range c.Values() {
		if strings.HasPrefix(v.Key, "etcd.") || v.Key == "server.rules" {
			got[v.Key] = v.Text() + " from " + v.Source
		}
	}
	want := map[string]string{
		"etcd.endpoints": `["e:1"] from --set`,
		"etcd.password":  "*** from config.yaml:2",
		"etcd.pin":       "*** from config.yaml:3",
		"etcd.wait":      "*** from config.yaml:4",
		"etcd.tokens":    "*** from config.yaml:5",
		"server.rules":   `[{"after":"0s","path":"/a","token":"***"}] from config.yaml:7`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestASecretThatIsNotSetIsShownAsEmpty(t *testing.T) {
	t.Parallel()
	for _, v := range mustLoad(t, "etcd: {tokens: []}", nil).Values() {
		if (v.Key == "etcd.password" || v.Key == "etcd.tokens") && v.Value != "" {
			t.Errorf("%s = %v, want it to show that nothing is set", v.Key, v.Value)
		}
	}
}

func TestErrorsAboutSecretsDoNotShowThem(t *testing.T) {
	t.Parallel()
	type ask struct {
		text   string
		change func(*config.Sources)
		want   string
	}
	for name, tc := range map[string]ask{
		"number in YAML":  {"etcd: {password: 424242}", nil, `config.yaml:1:18: etcd.password: *** is a number, not text; put it in quotes`},
		"text in YAML":    {"etcd: {pin: hunter}", nil, `config.yaml:1:13: etcd.pin: *** is text, not a whole number; write it without quotes, for example 10`},
		"range in YAML":   {"etcd: {pin: 42424299999999999999}", nil, `config.yaml:1:13: etcd.pin: *** is a number, not a whole number; write it without a fraction`},
		"duration":        {"etcd: {wait: 424242}", nil, `config.yaml:1:14: etcd.wait: *** is a number, not a duration; write it with a unit, for example "5s"`},
		"duration text":   {"etcd: {wait: hunter}", nil, `config.yaml:1:14: etcd.wait: *** is not a duration that can be read as time.Duration`},
		"list":            {"etcd: {tokens: hush}", nil, `config.yaml:1:16: etcd.tokens: *** is text, not a list; write it as a list, for example ["a", "b"]`},
		"entry of list":   {"etcd: {tokens: [424242]}", nil, `config.yaml:1:17: etcd.tokens[0]: *** is a number, not text; put it in quotes`},
		"within a list":   {"server: {rules: [{token: 424242}]}", nil, `config.yaml:1:26: server.rules[0].token: *** is a number, not text; put it in quotes`},
		"environment":     {"", env("BLOGGER_USER__ETCD__PIN=hunter"), `env BLOGGER_USER__ETCD__PIN: etcd.pin: *** is not a whole number that can be read as int`},
		"flag":            {"", args("--set", "etcd.pin=hunter"), `--set: etcd.pin: *** is not a whole number that can be read as int`},
		"misspelt":        {"", args("--set", "etcd.pasword=hunter"), `--set: unknown key "etcd.pasword"; did you mean "etcd.password"?`},
		"as a flag":       {"", args("--etcd.password=hunter"), `arguments: unknown flag "--etcd.password"; flags are --config FILE, --env NAME, --set KEY=VALUE, --help and --version; a setting is given as --set etcd.password=VALUE`},
		"Validate":        {"etcd: {password: hunter}", nil, `config.yaml:1:18: etcd.password: "***" is too short; write 8 characters`},
		"Validate short":  {`etcd: {password: "pass"}`, nil, `config.yaml:1:18: etcd.password: "***" is too short; write 8 characters`},
		"Validate quoted": {`etcd: {password: "hun\"ter"}`, nil, `config.yaml:1:18: etcd.password: "***" is too short; write 8 characters`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tc.text, tc.change)
			wantErr(t, err, tc.want)
			noSecret(t, "error", fmt.Sprintf("%v %+v", err, err))
			if errors.Is(err, errPassword) {
				t.Error("an error that shows the secret can be unwrapped")
			}
		})
	}
}

func TestASecretMayLieInAFile(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, "etcd: {password: '${file:pass}', endpoints: ['${file:pass}']}", func(s *config.Sources) { write(t, s.Dir, "pass", "from-a-file\n") })
	got := get[etcdConfig](t, c, "etcd")
	if got.Password != "from-a-file" || got.Endpoints[0] != "${file:pass}" {
		t.Errorf("etcd = %+v, want the secret read and what is no secret left alone", got)
	}
	_, err := load(t, "", env("BLOGGER_USER__ETCD__PASSWORD=${file:/nowhere/pass}"))
	wantErr(t, err, `env BLOGGER_USER__ETCD__PASSWORD: etcd.password: read the secret: open /nowhere/pass: no such file or directory; create the file or write the value itself`)
}

func TestHelpListsFlagsAndKeys(t *testing.T) {
	t.Parallel()
	for _, flag := range []string{"-h", "--help"} {
		_, err := config.Load(config.Sources{Service: "blog", NoFile: true, Args: []string{"serve", flag}},
			config.Section{Path: "server", Defaults: struct {
				Listen string           `config:"listen"`
				Wait   time.Duration    `config:"wait"`
				Pass   string           `config:"pass" secret:"true"`
				Names  []string         `config:"names"`
				Quota  map[string]quota `config:"quota"`
			}{Listen: ":9000", Wait: time.Hour, Pass: "hunter"}})
		var help *config.HelpError
		if !errors.As(err, &help) {
			t.Fatalf("%s: error = %v, want a *HelpError", flag, err)
		}
		want := `usage: blog [--config FILE] [--env NAME] [--set KEY=VALUE]...

flags:
  --config FILE    read FILE instead of config.yaml (also NEWSVC_CONFIG)
  --env NAME       read config.NAME.yaml over it (also NEWSVC_ENV)
  --set KEY=VALUE  set one key; may be repeated, wins over files and environment
  -h, --help       print this text
  --version        print the version of the binary

keys, with type and default (the environment variable of a key is BLOG__ and the key, upper case, "__" for ".", "_" for "-"):
  server.listen              text          ":9000"
  server.names               list          []
  server.pass                text          "***"
  server.quota.<name>.burst  whole number  
  server.quota.<name>.rate   whole number  
  server.wait                duration      "1h"
`
		if diff := cmp.Diff(want, help.Usage); diff != "" {
			t.Errorf("usage (-want +got):\n%s", diff)
		}
		if err.Error() != "help requested" {
			t.Errorf("error = %q", err)
		}
	}
}
