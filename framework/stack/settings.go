package stack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/newsvc/newsvc/framework/config"
)

// settingsLayer is the name of the layer of [Environment.Set], for people.
const settingsLayer = "test"

// Set gives the service a setting, over what files say and below environment and flags. [Stack.Set] may change it later.
func (e *Environment) Set(key, value string) {
	e.Sources.Layers = withSetting(e.Sources.Layers, key, value)
}

// withSetting returns the layers with a setting in the one of that name.
func withSetting(layers []config.Layer, key, value string) []config.Layer {
	layers = slices.Clone(layers)
	n := slices.IndexFunc(layers, func(l config.Layer) bool { return l.Name == settingsLayer })
	if n < 0 {
		n = len(layers)
		layers = append(layers, config.Layer{Name: settingsLayer})
	}
	layers[n].Settings = append(slices.Clone(layers[n].Settings), config.Setting{Key: key, Text: value})
	return layers
}

// Set changes a setting while the service runs, as a change of a file or in etcd does, and returns when it has taken effect.
// The error says why it has not: the configuration would not be valid, the key needs a restart, who takes it over refuses, or
// it is set somewhere that wins. It is for tests.
func (s *Stack) Set(ctx context.Context, key, value string) error {
	live := s.p.Live
	if live == nil {
		return fmt.Errorf("set %q: this service's configuration is not followed; give the stack Params.Live", key)
	}
	before := live.Layers()
	var undo func()
	for _, l := range withSetting(before, key, value) {
		if l.Name != settingsLayer {
			continue
		}
		was := config.Layer{Name: settingsLayer}
		if n := slices.IndexFunc(before, func(b config.Layer) bool { return b.Name == settingsLayer }); n >= 0 {
			was = before[n]
		}
		undo = func() { live.SetLayer(was) }
		live.SetLayer(l)
	}
	st := live.Reload(ctx).State
	err := st.Refused
	for section, failed := range st.Failed {
		err = errors.Join(err, fmt.Errorf("section %q keeps its values: %w", section, failed))
	}
	switch {
	case ctx.Err() != nil:
		err = errors.Join(err, context.Cause(ctx))
	case err != nil:
	case slices.ContainsFunc(st.Pending, func(c config.Change) bool { return c.Key == key }):
		err = errors.New("it needs a restart, or nobody takes it over; set it before the start")
	case live.Current().Origin(key) != settingsLayer:
		err = fmt.Errorf("it is set by %s, which wins", live.Current().Origin(key))
	}
	if err != nil {
		undo()
		return fmt.Errorf("set %q to %q: %w", key, value, err)
	}
	return nil
}
