package app

import (
	"fmt"

	"go.uber.org/fx"

	"github.com/newsvc/newsvc/framework/stack"
)

// OnReload has fn called when keys of a section of [Config] that carry a reload:"live" tag have changed in a file or in etcd, with
// what was in force and what is to be; keys without the tag are the same in both, and wait for a restart. T is a value that some
// constructor makes, C the type of the section. The configuration was validated as a whole before. An error keeps the section's old
// values and is logged. Callbacks run one after another and have 10 s each; handlers run meanwhile, so what they read is to be
// swapped, for example in an atomic.Pointer.
func OnReload[T, C any](section string, fn func(t T, old, next C) error) fx.Option {
	where := caller()
	if fn == nil {
		return misuse("OnReload", errNil)
	}
	return fx.Invoke(func(s *stack.Stack, t T) error {
		if err := stack.OnReload(s, section, func(old, next C) error { return fn(t, old, next) }); err != nil {
			return fmt.Errorf("%s: app.OnReload: %w", where, err)
		}
		return nil
	})
}
