package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/newsvc/newsvc/framework/config"
)

func TestErrorsOfAFile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"misspelt key": {"server:\n  lsiten: x\n",
			`config.yaml:2:3: unknown key "server.lsiten"; did you mean "server.listen"?`},
		"misspelt section": {"sever:\n  listen: x\n",
			`config.yaml:1:1: unknown key "sever"; did you mean "server"?`},
		"wrong case": {"Server: {}",
			`config.yaml:1:1: unknown key "Server"; did you mean "server"?`},
		"dash for underscore": {"server: {accept-names: []}",
			`config.yaml:1:10: unknown key "server.accept-names"; did you mean "server.accept_names"?`},
		"key of another section": {"password: x",
			`config.yaml:1:1: unknown key "password"; did you mean "etcd.password"?`},
		"strange key": {"colour: red",
			`config.yaml:1:1: unknown key "colour"; known here: "clients", "etcd", "server"`},
		"strange key in a section": {"etcd: {colour: red}",
			`config.yaml:1:8: unknown key "etcd.colour"; known in etcd: "endpoints", "password", "pin", "tokens", "wait"`},
		"dotted key": {"server.tls.cert: x",
			`config.yaml:1:1: unknown key "server.tls.cert"; write one level per line, each indented below the one before: server: tls: cert:`},
		"callee nobody calls": {"clients:\n  orders: {}\n",
			`config.yaml:2:3: unknown key "clients.orders"; no callee of this name is declared: main.go needs app.Client("orders", ...)`},
		"misspelt callee": {"clients:\n  user-servce: {}\n",
			`config.yaml:2:3: unknown key "clients.user-servce"; did you mean "clients.user-service"? if not, no callee of this name is declared: main.go needs app.Client("user-servce", ...)`},
		"key below a value": {"server: {max: {a: 1}}",
			`config.yaml:1:15: server.max: this is a group of keys, not a whole number; write a single value`},
		"number for duration": {"server:\n  timeout: 5\n",
			`config.yaml:2:12: server.timeout: 5 is a number, not a duration; write it with a unit, for example "5s"`},
		"text without unit": {"server: {timeout: '5'}",
			`config.yaml:1:19: server.timeout: "5" is not a duration; write a number with a unit, for example "5s"`},
		"boolean for text": {"server: {listen: true}",
			`config.yaml:1:18: server.listen: true is a boolean, not text; put it in quotes`},
		"number for text": {"server: {listen: 9000}",
			`config.yaml:1:18: server.listen: 9000 is a number, not text; put it in quotes`},
		"text for number": {"server: {max: '5'}",
			`config.yaml:1:15: server.max: "5" is text, not a whole number; write it without quotes, for example 10`},
		"fraction for whole": {"server: {max: 1.5}",
			`config.yaml:1:15: server.max: 1.5 is a number, not a whole number; write it without a fraction`},
		"too big": {"server: {tiny: 300}",
			`config.yaml:1:16: server.tiny: 300 is out of range for a whole number of type int8`},
		"negative for unsigned": {"server: {size: -1}",
			`config.yaml:1:16: server.size: -1 is out of range for a whole number of type uint16`},
		"infinite": {"server: {share: .inf}",
			`config.yaml:1:17: server.share: .inf is not a finite number`},
		"text for boolean": {"server: {reflect: yes}",
			`config.yaml:1:19: server.reflect: "yes" is text, not a boolean; write true or false`},
		"text for list": {"etcd: {endpoints: 'a:1,b:2'}",
			`config.yaml:1:19: etcd.endpoints: "a:1,b:2" is text, not a list; write it as a list, ["a:1,b:2"]`},
		"number in list": {"server: {accept_names: [a, 5]}",
			`config.yaml:1:28: server.accept_names[1]: 5 is a number, not text; put it in quotes`},
		"number in map": {"server: {labels: {a: 5}}",
			`config.yaml:1:22: server.labels.a: 5 is a number, not text; put it in quotes`},
		"list for text": {"server: {listen: [a]}",
			`config.yaml:1:18: server.listen: this is a list, not text; write a single value`},
		"value for section": {"server: 5",
			`config.yaml:1:9: server: 5 is a number, not a group of keys; write keys below it, indented: "accept_names", "from", "labels", "listen", "max", "quota", "reflect", "rules", "share", "size", "timeout", "tiny", "tls"`},
		"value for map": {"server: {labels: x}",
			`config.yaml:1:18: server.labels: "x" is text, not a group of keys; write keys below it, indented: any names`},
		"list for file": {"- a\n",
			`config.yaml:1:1: this is a list, not a group of keys; write keys below it, indented: "clients", "etcd", "server"`},
		"no value": {"server:\n  listen:\n",
			`config.yaml:2:10: server.listen: there is no value, text is expected; write one or remove the line`},
		"bad text type": {"server: {from: nowhere}",
			`config.yaml:1:16: server.from: cannot read "nowhere": netip.ParsePrefix("nowhere"): no '/'`},
		"unknown key in a list": {"server: {rules: [{pth: /a}]}",
			`config.yaml:1:19: unknown key "server.rules[0].pth"; did you mean "server.rules[0].path"?`},
		"wrong type in a list": {"server: {rules: [{after: 1}]}",
			`config.yaml:1:26: server.rules[0].after: 1 is a number, not a duration; write it with a unit, for example "1s"`},
		"unknown key in a map entry": {"server: {quota: {eu: {rat: 1}}}",
			`config.yaml:1:23: unknown key "server.quota.eu.rat"; did you mean "server.quota.eu.rate"?`},
		"duplicate": {"server:\n  max: 1\n  max: 2\n",
			`config.yaml:3:3: key "server.max" is written twice, first in line 2; remove one`},
		"duplicate section": {"server: {}\nserver: {}\n",
			`config.yaml:2:1: key "server" is written twice, first in line 1; remove one`},
		"alias": {"server:\n  listen: &a ':1'\n",
			`config.yaml:2:11: server.listen: YAML anchors and aliases are not supported; write the value out`},
		"merge": {"server:\n  <<: {max: 1}\n",
			`config.yaml:2:3: "<<" merges are not supported; write the keys out`},
		"tag": {"server: {listen: !file x}",
			`config.yaml:1:18: server.listen: this has the tag !file, not text; put it in quotes`},
		"complex key": {"? [a]\n: 1\n",
			`config.yaml:1:3: a key must be a plain word`},
		"second document": {"server: {}\n---\nserver: {}\n",
			`config.yaml:2:1: a second document begins here; keep one document per file`},
		"no YAML": {"server: [a\n",
			`config.yaml:1: this is no valid YAML: did not find expected ',' or ']'`},
		"control character": {"server: {labels: {\"a\\x1fb\": x}}",
			`config.yaml:1:19: key "server.labels.a\x1fb" holds a control character; remove it`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tc.text, nil)
			wantErr(t, err, tc.want)
		})
	}
}

func TestErrorsOfArguments(t *testing.T) {
	t.Parallel()
	const hint = "flags are --config FILE, --env NAME, --set KEY=VALUE, --help and --version"
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"unknown key":      {[]string{"--set", "server.lsiten=x"}, `--set: unknown key "server.lsiten"; did you mean "server.listen"?`},
		"dash key":         {[]string{"--set", "server.accept-names=x"}, `--set: unknown key "server.accept-names"; did you mean "server.accept_names"?`},
		"group":            {[]string{"--set", "server.tls=x"}, `--set: server.tls is a group of keys, not a value; name one of its keys: "cert", "key"`},
		"map":              {[]string{"--set", "server.labels=x"}, `--set: server.labels is a group of keys, not a value; name one of its keys: any names`},
		"no entry":         {[]string{"--set", "server.labels.=x"}, `--set: key "server.labels." names no entry; write server.labels.NAME`},
		"below a value":    {[]string{"--set", "server.max.x=1"}, `--set: unknown key "server.max.x"; "server.max" is a value and has no keys of its own`},
		"bad number":       {[]string{"--set", "server.max=many"}, `--set: server.max: "many" is not a whole number; write it in digits, for example 10`},
		"out of range":     {[]string{"--set", "server.tiny=300"}, `--set: server.tiny: 300 is out of range for a whole number of type int8`},
		"bad boolean":      {[]string{"--set", "server.reflect=maybe"}, `--set: server.reflect: "maybe" is not a boolean; write true or false`},
		"bad duration":     {[]string{"--set", "server.timeout=5"}, `--set: server.timeout: "5" is not a duration; write a number with a unit, for example "5s"`},
		"bad float":        {[]string{"--set", "server.share=NaN"}, `--set: server.share: "NaN" is not a number; write it in digits, for example 0.5`},
		"list of groups":   {[]string{"--set", "server.rules=x"}, `--set: server.rules: a list of groups cannot be written as text; write it in a configuration file`},
		"unknown callee":   {[]string{"--set", "clients.orders.timeout=1s"}, `--set: unknown key "clients.orders"; no callee of this name is declared: main.go needs app.Client("orders", ...)`},
		"no value":         {[]string{"--set", "server.max"}, `--set: server.max has no value; write --set server.max=VALUE`},
		"no key":           {[]string{"--set", "=1"}, `--set: KEY has no value; write --set KEY=VALUE`},
		"secret apart":     {[]string{"--set", "etcd.password", "hunter22"}, `--set: etcd.password has no value; write --set etcd.password=VALUE`},
		"flag at the end":  {[]string{"--config"}, `arguments: flag --config needs a value; ` + hint},
		"flag before flag": {[]string{"--env", "--help-me"}, "the configuration has 2 problems:\n  arguments: flag --env needs a value; " + hint + "\n" + `  arguments: unknown flag "--help-me"; ` + hint},
		"empty value":      {[]string{"--config="}, `arguments: flag --config needs a value; ` + hint},
		"unknown flag":     {[]string{"--server.listen=:1"}, `arguments: unknown flag "--server.listen"; ` + hint + `; a setting is given as --set server.listen=VALUE`},
		"near flag":        {[]string{"-config", "--confg=x"}, "the configuration has 2 problems:\n" + `  arguments: unknown flag "-config"; did you mean --config?` + "\n" + `  arguments: unknown flag "--confg"; did you mean --config?`},
		"positional":       {[]string{"serve"}, `arguments: unexpected argument "serve"; ` + hint},
		"bad env name":     {[]string{"--env", "../x"}, `--env: "../x" is no name of an environment; write letters, digits, - and _, for example "dev"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, "", args(tc.args...))
			wantErr(t, err, tc.want)
		})
	}
}

func TestErrorsOfTheEnvironment(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ variable, want string }{
		"unknown key": {"BLOGGER_USER__SERVER__LSITEN=x",
			`env BLOGGER_USER__SERVER__LSITEN: unknown key "server.lsiten"; did you mean BLOGGER_USER__SERVER__LISTEN?`},
		"nothing like it in the section": {"BLOGGER_USER__SERVER__STOP=x",
			`env BLOGGER_USER__SERVER__STOP: unknown key "server.stop"; known in server: "accept_names", "from", "labels", "listen", "max", "quota", "reflect", "rules", "share", "size", "timeout", "tiny", "tls"`},
		"unknown section": {"BLOGGER_USER__SEVER__LISTEN=x",
			`env BLOGGER_USER__SEVER__LISTEN: unknown key "sever"; did you mean BLOGGER_USER__SERVER?`},
		"single underscore between levels": {"BLOGGER_USER__SERVER_LISTEN=x",
			`env BLOGGER_USER__SERVER_LISTEN: unknown key "server_listen"; did you mean BLOGGER_USER__SERVER__LISTEN?`},
		"strange": {"BLOGGER_USER__COLOUR=x",
			`env BLOGGER_USER__COLOUR: unknown key "colour"; known here: "clients", "etcd", "server"`},
		"callee": {"BLOGGER_USER__CLIENTS__ORDERS__TIMEOUT=1s",
			`env BLOGGER_USER__CLIENTS__ORDERS__TIMEOUT: unknown key "clients.orders"; no callee of this name is declared: main.go needs app.Client("orders", ...)`},
		"callee with a dash": {"BLOGGER_USER__CLIENTS__NEW_ORDERS__TIMEOUT=1s",
			`env BLOGGER_USER__CLIENTS__NEW_ORDERS__TIMEOUT: unknown key "clients.new_orders"; no callee of this name is declared: main.go needs app.Client("new-orders", ...)`},
		"nothing": {"BLOGGER_USER__=x",
			`env BLOGGER_USER__: unknown key ""; known here: "clients", "etcd", "server"`},
		"group": {"BLOGGER_USER__SERVER__TLS=x",
			`env BLOGGER_USER__SERVER__TLS: server.tls is a group of keys, not a value; append __ and one of its keys: "cert", "key"`},
		"below a value": {"BLOGGER_USER__SERVER__MAX__X=x",
			`env BLOGGER_USER__SERVER__MAX__X: server.max is a value and has no keys of its own; unset the variable or write BLOGGER_USER__SERVER__MAX`},
		"no entry": {"BLOGGER_USER__SERVER__LABELS__=x",
			`env BLOGGER_USER__SERVER__LABELS__: server.labels names no entry; write BLOGGER_USER__SERVER__LABELS__<NAME>`},
		"bad value": {"BLOGGER_USER__CLIENTS__USER_SERVICE__TIMEOUT=5",
			`env BLOGGER_USER__CLIENTS__USER_SERVICE__TIMEOUT: clients.user-service.timeout: "5" is not a duration; write a number with a unit, for example "5s"`},
		"empty number": {"BLOGGER_USER__SERVER__MAX=",
			`env BLOGGER_USER__SERVER__MAX: server.max: "" is not a whole number; write it in digits, for example 10`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, "", env(tc.variable))
			wantErr(t, err, tc.want)
		})
	}
}

func TestClientsWithoutAnyCallee(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Sources{Service: "a", NoFile: true, Environ: []string{"A__CLIENTS__B__TIMEOUT=1s"}},
		config.Section{Path: "server", Defaults: serverDefaults()})
	wantErr(t, err, `env A__CLIENTS__B__TIMEOUT: unknown key "clients"; no callee is declared: main.go needs for example app.Client("user-service", ...)`)
}

func TestOneKeyInTwoSpellingsOfTheEnvironment(t *testing.T) {
	t.Parallel()
	_, err := load(t, "", env("BLOGGER_USER__SERVER__MAX=1", "blogger_user__server__max=2"))
	wantErr(t, err, `env blogger_user__server__max: server.max is set by BLOGGER_USER__SERVER__MAX too; unset one of them`)
}

func TestAllProblemsAreReportedTogether(t *testing.T) {
	t.Parallel()
	_, err := load(t, "server: {max: x, labels: {a: 1}}\nclients: {defaults: {timeout: 0s}}\n", func(s *config.Sources) {
		s.Environ = []string{"BLOGGER_USER__ETCD__PASWORD=x"}
		s.Args = []string{"--set", "etcd.endpont=x"}
	})
	wantErr(t, err, `the configuration has 5 problems:
  config.yaml:1:15: server.max: "x" is text, not a whole number; write it without quotes, for example 10
  config.yaml:1:30: server.labels.a: 1 is a number, not text; put it in quotes
  env BLOGGER_USER__ETCD__PASWORD: unknown key "etcd.pasword"; did you mean BLOGGER_USER__ETCD__PASSWORD?
  --set: unknown key "etcd.endpont"; did you mean "etcd.endpoints"?
  config.yaml:2:31: clients.defaults.timeout: "0s" is not positive; write for example "5s"`)
	var ce *config.Error
	if !errors.As(err, &ce) || len(ce.Problems) != 5 {
		t.Fatalf("the error is no *config.Error with 5 problems: %#v", err)
	}
	want := config.Problem{Key: "server.max", Position: config.Position{Name: "config.yaml", Line: 1, Column: 15},
		Text: `server.max: "x" is text, not a whole number; write it without quotes, for example 10`}
	if diff := cmp.Diff(want, ce.Problems[0]); diff != "" {
		t.Error(diff)
	}
}

func TestTheListOfProblemsIsBounded(t *testing.T) {
	t.Parallel()
	_, err := load(t, "server:\n"+strings.Repeat("  - x\n", 1)+"", nil)
	if err == nil {
		t.Fatal("a list was taken for a section")
	}
	var b strings.Builder
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		b.WriteString("zzzzzz" + string(c) + ": 1\n")
	}
	_, err = load(t, b.String(), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "the configuration has 26 problems:\n") || !strings.HasSuffix(err.Error(), "\n  and 6 more") {
		t.Errorf("error = %v, want 20 problems and the number of the others", err)
	}
}

func TestValidateErrorsPointToWhereTheValueWasSet(t *testing.T) {
	t.Parallel()
	_, err := load(t, "server:\n  listen: nowhere\n  tls:\n    cert: c.pem\n", args("--set", "server.max=-1"))
	wantErr(t, err, `the configuration has 3 problems:
  config.yaml:2:11: server.listen: "nowhere" is no host:port; write for example ":9000"
  --set: server.max: -1 is negative; write 0 for no limit
  config.yaml:4:11: server.tls: cert and key belong together; set both or none`)
}

func TestValidateErrorOfADefaultSaysSo(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Sources{NoFile: true}, config.Section{Path: "server", Defaults: serverConfig{}})
	wantErr(t, err, `default: server.listen: "" is no host:port; write for example ":9000"`)
}

func TestValidateErrorOfAnInheritedValueIsReportedOnce(t *testing.T) {
	t.Parallel()
	_, err := load(t, "clients: {defaults: {timeout: -1s}}", nil)
	wantErr(t, err, `config.yaml:1:31: clients.defaults.timeout: "-1s" is not positive; write for example "5s"`)
}

type plainError struct{ N int }

func (p *plainError) Validate() error { return errors.New("all is wrong") }

func TestValidateMayHaveAPointerReceiverAndNameNoKey(t *testing.T) {
	t.Parallel()
	type C struct {
		plainError
		X int `config:"x"`
	}
	_, err := config.Load(config.Sources{NoFile: true}, config.Section{Path: "blog", Defaults: C{}})
	wantErr(t, err, `register section "blog": field config_test.plainError.N has config tag ""; write a snake_case key, or "-" to hide the field`)
	type D struct {
		plainError `config:"-"`
		X          int `config:"x"`
	}
	_, err = config.Load(config.Sources{NoFile: true}, config.Section{Path: "blog", Defaults: D{}})
	wantErr(t, err, `blog: all is wrong`)
}

func TestValidateCauseIsReachable(t *testing.T) {
	t.Parallel()
	_, err := config.Load(config.Sources{NoFile: true}, config.Section{Path: "x", Defaults: causing{}})
	if !errors.Is(err, errPassword) {
		t.Errorf("errors.Is finds no cause in %v", err)
	}
}

type causing struct{}

func (causing) Validate() error { return errPassword }

func TestUnreadableFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(at("conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		src  config.Sources
		want string
	}{
		"flag": {config.Sources{Args: []string{"--config", "x.yaml"}},
			`--config: read configuration file "` + at("x.yaml") + `": no such file or directory; create it, or name another one with --config`},
		"variable": {config.Sources{Environ: []string{"NEWSVC_CONFIG=x.yaml"}},
			`NEWSVC_CONFIG: read configuration file "` + at("x.yaml") + `": no such file or directory; create it, or name another one with NEWSVC_CONFIG`},
		"environment": {config.Sources{Args: []string{"--env=prod"}},
			`--env: read configuration file "` + at("config.prod.yaml") + `": no such file or directory; create it, or leave out --env`},
		"environment by variable": {config.Sources{Environ: []string{"NEWSVC_ENV=prod"}},
			`NEWSVC_ENV: read configuration file "` + at("config.prod.yaml") + `": no such file or directory; create it, or leave out NEWSVC_ENV`},
		"directory": {config.Sources{Args: []string{"--config=conf"}},
			`--config: read configuration file "` + at("conf") + `": is a directory; name a YAML file`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.src.Dir = dir
			_, err := config.Load(tc.src, sections()...)
			wantErr(t, err, tc.want)
		})
	}
}

func TestForbiddenFile(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is forbidden to root")
	}
	_, err := load(t, "", func(s *config.Sources) {
		write(t, s.Dir, "config.yaml", "")
		if err := os.Chmod(filepath.Join(s.Dir, "config.yaml"), 0); err != nil {
			t.Fatal(err)
		}
	})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "make it readable for the user that runs the service") {
		t.Errorf("error = %v, want the remedy for a forbidden file", err)
	}
}

func TestSectionsAreChecked(t *testing.T) {
	t.Parallel()
	type loop struct {
		Again []struct {
			X map[string]string `config:"x"`
		} `config:"again"`
	}
	type list struct {
		Children []list `config:"children"`
	}
	type ptr struct {
		P *int `config:"p"`
	}
	type maps struct {
		M map[string]map[string]int `config:"m"`
	}
	type twice struct {
		A int `config:"a"`
		B int `config:"a"`
	}
	type reload struct {
		A int `config:"a" reload:"now"`
	}
	type group struct {
		Limits quota `config:"limits"`
	}
	for name, tc := range map[string]struct {
		sections []config.Section
		want     string
	}{
		"twice":     {[]config.Section{{Path: "a", Defaults: quota{}}, {Path: "a", Defaults: quota{}}}, `register section "a": it is registered twice; give each section a path of its own`},
		"name":      {[]config.Section{{Path: "a..b", Defaults: quota{}}}, `register section "a..b": "" is no name for a section; write lower-case words joined by - or _`},
		"nil":       {[]config.Section{{Path: "a"}}, `register section "a": its defaults are a <nil>; give a struct value`},
		"pointer":   {[]config.Section{{Path: "a", Defaults: &quota{}}}, `register section "a": its defaults are a *config_test.quota; give a struct value`},
		"base":      {[]config.Section{{Path: "a", Inherits: "b"}}, `register section "a": it cannot inherit from "b"; name a registered section that inherits nothing itself`},
		"base type": {[]config.Section{{Path: "a", Inherits: "b", Defaults: rule{}}, {Path: "b", Defaults: quota{}}}, `register section "a": it is a config_test.rule and "b" is a config_test.quota; one can inherit from the other when both are of one type`},
		"overlap":   {[]config.Section{{Path: "a", Defaults: group{}}, {Path: "a.limits", Defaults: quota{}}}, `register section "a.limits": key "burst" is there already; sections that share a group must not share keys`},
		"below a value": {[]config.Section{{Path: "a", Defaults: quota{}}, {Path: "a.rate", Defaults: quota{}}},
			`register section "a.rate": "rate" is a key of section "a" already; choose another path`},
		"recursion": {[]config.Section{{Path: "a", Defaults: list{}}}, `register section "a": key "children": type config_test.list contains itself; a section needs a fixed depth`},
		"type":      {[]config.Section{{Path: "a", Defaults: ptr{}}}, `register section "a": key "p": type *int cannot be configured; use text, numbers, booleans, durations, lists, maps by text, structs or a type that reads text`},
		"maps":      {[]config.Section{{Path: "a", Defaults: maps{}}}, `register section "a": key "m": type map[string]map[string]int is a map of maps; put a struct in between`},
		"tag twice": {[]config.Section{{Path: "a", Defaults: twice{}}}, `register section "a": type config_test.twice has two fields for key "a"`},
		"reload":    {[]config.Section{{Path: "a", Defaults: reload{}}}, `register section "a": field config_test.reload.A has reload tag "now"; write live, pushed or redial, or leave it out`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(config.Sources{NoFile: true}, tc.sections...)
			wantErr(t, err, tc.want)
		})
	}
	if _, err := config.Load(config.Sources{NoFile: true}, config.Section{Path: "a", Defaults: loop{}}); err != nil {
		t.Errorf("maps within lists are refused: %v", err)
	}
}
