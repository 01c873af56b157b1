package discovery_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/discovery"
)

// checkFast fails when the fast way takes a value for something else than encoding/json does. It reports whether the
// fast way took it at all.
func checkFast(t *testing.T, value string) bool {
	t.Helper()
	fast, ok, fastErr := discovery.DecodeFast("user", value)
	if !ok {
		return false
	}
	slow, slowErr := discovery.DecodeSlowly("user", []byte(value))
	if fmt.Sprint(fastErr) != fmt.Sprint(slowErr) || !reflect.DeepEqual(fast, slow) {
		t.Errorf("%q\nfast: %+v, %v\nslow: %+v, %v", value, fast, fastErr, slow, slowErr)
	}
	return true
}

// usual are values as Encode and etcd's naming package write them.
func usual(t testing.TB) []string {
	t.Helper()
	out := []string{`{"Op":0,"Addr":"10.0.0.1:9000","Metadata":null}`, `{"Op":0,"Addr":"10.0.0.1:9000"}`}
	for n := range 1 << 7 {
		has := func(bit int) bool { return n&(1<<bit) != 0 }
		i := &discovery.Instance{Service: "user", Addr: "10.0.0.1:9000", Incarnation: "ABCDEFGHJKLMNPQR"}
		if has(0) {
			i.State = discovery.StateDraining
		}
		if has(1) {
			i.Version = "v1.2.3"
		}
		if has(2) {
			i.Weight = 100
		}
		if has(3) {
			i.Zone = "zone-a"
		}
		if has(4) {
			i.Admin = "10.0.0.1:9001"
		}
		if has(5) {
			i.Metadata = map[string]string{"team": "blue"}
		}
		if has(6) && has(5) {
			i.Metadata[""] = "red"
			i.Metadata["region"] = ""
		}
		value, err := discovery.Encode(i)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(value))
	}
	return out
}

func TestTheFastWayTakesWhatEncodeWrites(t *testing.T) {
	t.Parallel()
	for _, value := range usual(t) {
		if !checkFast(t, value) {
			t.Errorf("declined: %s", value)
		}
	}
}

func TestTheFastWayLeavesTheUnusualToEncodingJSON(t *testing.T) {
	t.Parallel()
	const ours = `{"Op":0,"Addr":"10.0.0.1:9000","Metadata":{"incarnation":"a"`
	for _, value := range []string{
		``, `{`, `{"Op":1,"Addr":"a:1"}`, `{"Op":0, "Addr":"a:1"}`, `{"Op":0,"addr":"a:1"}`, `{"Op":0,"Addr":"a:1"`, `{"Op":0,"Addr":"a:1`,
		`{"Op":0,"Addr":"a:1"}}`, `{"Op":0,"Addr":"a:1"}x`, `{"Op":0,"Addr":"\u0061:1"}`, "{\"Op\":0,\"Addr\":\"a\n:1\"}",
		"{\"Op\":0,\"Addr\":\"\xff:1\"}", `{"Op":0,"Addr":"ä:1"}`, `{"Op":0,"Addr":"a:1","Metadata":{}}`,
		`{"Op":0,"Addr":"a:1","Metadata":{"incarnation":""}}`, `{"Op":0,"Addr":"a:1","Metadata":{"zone":"z","incarnation":"a"}}`,
		`{"Op":0,"Addr":"a:1","Metadata":null,"Addr":"b:1"}`, `{"Op":0,"Addr":"a:1","Metadata":5}`,
		ours + `,"weight":-1}}`, ours + `,"weight":01}}`, ours + `,"weight":1e3}}`, ours + `,"weight":1.5}}`, ours + `,"weight":}}`,
		ours + `,"weight":1234567890}}`, ours + `,"weight":"1"}}`, ours + `,"zone":null}}`, ours + `,"meta":null}}`, ours + `,"meta":{"a":1}}}`,
		ours + `,"meta":{"a":"b",}}}`, ours + `,"meta":{,"a":"b"}}}`, ours + `,"meta":{"a":"b""c":"d"}}}`, ours + `,"meta":{"a":"b"}`,
		ours + `,"zone":"z","state":"up"}}`, ours + `,"zone":"z","zone":"y"}}`, ours + `,"meta":{},"meta":{}}}`, ours + `,"other":"x"}}`,
	} {
		if checkFast(t, value) {
			t.Errorf("taken: %s", value)
		}
	}
	for _, value := range []string{ // taken, and judged as encoding/json would
		ours + `,"state":"odd"}}`, ours + `,"state":""}}`, ours + `,"weight":0}}`, ours + `,"meta":{"a":"b","a":"c"}}}`, ours + `,"meta":{}}}`,
		`{"Op":0,"Addr":""}`,
	} {
		if !checkFast(t, value) {
			t.Errorf("declined: %s", value)
		}
	}
}

// TestTheFastWayAgreesWithEncodingJSON changes usual values here and there, thousands of times.
func TestTheFastWayAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	values := usual(t)
	pieces := []string{`"`, `,`, `{`, `}`, `:`, `\`, ` `, `0`, `1`, `-`, `null`, `""`, `"meta":{`, `,"zone":"`, `,"weight":`, "\x00", "\x7f", "ä", "\xff", "<"}
	taken := 0
	for range 50_000 {
		value := values[r.IntN(len(values))]
		for range 1 + r.IntN(3) {
			from := r.IntN(len(value) + 1)
			to := min(len(value), from+r.IntN(4)*r.IntN(4))
			insert := ""
			switch r.IntN(3) {
			case 0:
				insert = pieces[r.IntN(len(pieces))]
			case 1:
				other := values[r.IntN(len(values))]
				at := r.IntN(len(other))
				insert = other[at:min(len(other), at+r.IntN(30))]
			}
			value = value[:from] + insert + value[to:]
		}
		if checkFast(t, value) {
			taken++
		}
	}
	if taken < 500 || t.Failed() {
		t.Errorf("%d changed values were taken (seed %d)", taken, seed)
	}
}

func FuzzFastDecode(f *testing.F) {
	for _, value := range usual(f) {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) { checkFast(t, value) })
}

func BenchmarkDecode(b *testing.B) {
	value, err := discovery.Encode(&discovery.Instance{
		Addr: "10.0.0.1:9000", Incarnation: discovery.NewIncarnation(), State: discovery.StateUp, Version: "v1.2.3",
		Weight: 100, Zone: "zone-a", Admin: "10.0.0.1:9001",
	})
	if err != nil {
		b.Fatal(err)
	}
	escaped := []byte(strings.Replace(string(value), "zone-a", `zone\u002da`, 1))
	for _, c := range []struct {
		name  string
		value []byte
	}{
		{"usual", value}, {"naming", []byte(`{"Op":0,"Addr":"10.0.0.1:9000","Metadata":null}`)}, {"escaped", escaped},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := discovery.Decode("user", c.value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("encoding_json_alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var into struct{ Addr string }
			if err := json.Unmarshal(value, &into); err != nil {
				b.Fatal(err)
			}
		}
	})
}
