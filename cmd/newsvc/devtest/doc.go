// Package devtest holds newsvc dev to what it promises, with real processes: saves under load, several of them on one
// machine, what is left after a stop. It has no code of its own. The tests are short here; with NEWSVC_TEST_CLI=1, as
// `make test-cli` has it, reloads go through all ten saves.
package devtest
