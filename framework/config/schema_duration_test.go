package config_test

import (
	"regexp"
	"testing"
	"time"

	"github.com/newsvc/newsvc/framework/config"
)

// FuzzDurationPattern holds what editors accept against what a start does.
func FuzzDurationPattern(f *testing.F) {
	schema, err := config.Schema("x", nil, config.Section{Path: "a", Defaults: struct {
		Wait time.Duration `config:"wait"`
	}{}})
	if err != nil {
		f.Fatal(err)
	}
	at := schema
	for _, key := range []string{"a", "wait"} {
		at = at["properties"].(map[string]any)[key].(map[string]any)
	}
	pattern := regexp.MustCompile(at["pattern"].(string))
	for _, text := range []string{
		"0", "-0", "+0", "00", "0s", "01s", "5", "5s", "-5s", "+1.5h", ".5s", "5.s", ".s", "s", "", "-", "1h30m", "1h0", "01h0", "1h 2m", "1H", "1d", "1us", "1µs", "1μs",
		"1e3s", "1h-3m", "0x1s", "1.5.5s", "--1s", "1ns2h", "5 s", "\n5s", "5s\n", "0.0", "1_000s",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 10 {
			return // more than an int64 holds is beyond what a pattern can tell
		}
		_, err := time.ParseDuration(text)
		if matches := pattern.MatchString(text); matches != (err == nil) && !regexp.MustCompile(`\d{6}`).MatchString(text) {
			t.Errorf("%q matches: %v, parsed: %v", text, matches, err)
		}
	})
}
