package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/newsvc/newsvc/framework/discovery"
)

func TestInstancesSurviveTheCodec(t *testing.T) {
	t.Parallel()
	in := &discovery.Instance{
		Service: "user", Addr: "10.0.0.1:9000", Incarnation: "abc", State: discovery.StateDraining, Version: "v1.2.3",
		Weight: 7, Zone: "z1", Admin: "10.0.0.1:9001", Metadata: map[string]string{"team": "blue"},
	}
	value, err := discovery.Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := discovery.Decode("user", value)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) || !in.Equal(out) {
		t.Fatalf("Decode = %+v, want %+v", out, in)
	}
	var foreign struct {
		Op       uint8
		Addr     string
		Metadata any
	}
	if err := json.Unmarshal(value, &foreign); err != nil || foreign.Addr != in.Addr || foreign.Op != 0 {
		t.Fatalf("a reader of etcd's naming format sees %+v, %v", foreign, err)
	}
}

func TestForeignValuesAreUnderstood(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]discovery.Instance{
		`10.0.0.1:9000`:     {},
		"  10.0.0.1:9000\n": {},
		`{"Op":0,"Addr":"10.0.0.1:9000","Metadata":null}`:          {},
		`{"Addr":"10.0.0.1:9000"}`:                                 {},
		`{"Op":0,"Addr":"10.0.0.1:9000","Metadata":"blue"}`:        {},
		`{"Addr":"10.0.0.1:9000","Metadata":[1,2]}`:                {},
		`{"Addr":"10.0.0.1:9000","Metadata":{"weight":3,"n":1}}`:   {Weight: 3},
		`{"Addr":"10.0.0.1:9000","Metadata":{"weight":"heavy"}}`:   {Metadata: map[string]string{"weight": "heavy"}},
		`{"Addr":"10.0.0.1:9000","Metadata":{"zone":"z","x":"y"}}`: {Zone: "z", Metadata: map[string]string{"x": "y"}},
	} {
		want.Service, want.Addr, want.State = "user", "10.0.0.1:9000", discovery.StateUp
		got, err := discovery.Decode("user", []byte(value))
		if err != nil {
			t.Errorf("Decode(%s) = %v", value, err)
			continue
		}
		if !got.Equal(&want) {
			t.Errorf("Decode(%s) = %+v, want %+v", value, *got, want)
		}
	}
}

func TestCorruptValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"", "{", "x", "null", "[]", `{}`, `{"Addr":""}`, `{"Addr":5}`, `{"Addr":"0.0.0.0:0"}`, `{"Addr":"x"}`,
		`{"Addr":"10.0.0.1:9000","Metadata":{"incarnation":"a","weight":"x"}}`,
		`{"Addr":"10.0.0.1:9000","Metadata":{"incarnation":"a","weight":-1}}`,
		`{"Addr":"10.0.0.1:9000","Metadata":{"incarnation":"a","state":"odd"}}`,
		strings.Repeat("1", discovery.MaxValueSize+1),
	} {
		if got, err := discovery.Decode("user", []byte(value)); err == nil {
			t.Errorf("Decode(%.60q) = %+v, want an error", value, got)
		}
	}
	if _, err := discovery.Encode(&discovery.Instance{Service: "user", Addr: "0.0.0.0:1"}); err == nil {
		t.Error("Encode accepts a wildcard address")
	}
}

func TestStaticYieldsOnceAndWaits(t *testing.T) {
	t.Parallel()
	s, err := discovery.NewStatic(
		&discovery.Instance{Service: "user", Addr: "127.0.0.1:2"},
		&discovery.Instance{Service: "user", Addr: "127.0.0.1:1"},
	)
	if err != nil {
		t.Fatal(err)
	}
	over := errors.New("over")
	for service, want := range map[string]int{"user": 2, "nobody": 0} {
		ctx, cancel := context.WithCancelCause(t.Context())
		calls := 0
		err := s.Watch(ctx, service, func(u discovery.Update) {
			calls++
			if !u.Known() || len(u.Instances) != want {
				t.Errorf("%s: %d instances, want %d", service, len(u.Instances), want)
			}
			if want == 2 && u.Instances[0].Addr != "127.0.0.1:1" {
				t.Errorf("%s: not sorted: %v", service, u.Instances[0].Addr)
			}
			cancel(over)
		})
		if !errors.Is(err, over) || calls != 1 {
			t.Errorf("%s: Watch = %v after %d calls", service, err, calls)
		}
	}
	if err := s.Watch(t.Context(), "Wrong", nil); err == nil {
		t.Error("Watch accepts a wrong name")
	}
	if _, err := discovery.NewStatic(&discovery.Instance{Service: "user", Addr: "a:1"}, &discovery.Instance{Service: "user", Addr: "a:1"}); err == nil {
		t.Error("NewStatic accepts an address twice")
	}
}

func TestForeignMetadataThatStandsTwiceIsReadTheSameEachTime(t *testing.T) {
	t.Parallel()
	const value = `{"Addr":"h:1","Metadata":{"foo":"beside","meta":{"foo":"inside","bar":"inside"}}}`
	for range 100 {
		i, err := discovery.Decode("user", []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		if i.Metadata["foo"] != "beside" || i.Metadata["bar"] != "inside" {
			t.Fatalf("metadata = %v", i.Metadata)
		}
	}
}
