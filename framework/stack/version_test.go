package stack_test

import (
	"testing"

	"github.com/newsvc/newsvc/framework/stack"
)

// TestVersionOfAnImage sets what the Dockerfile of a created service does: its binary was built without a repository.
func TestVersionOfAnImage(t *testing.T) {
	without := stack.FromProcess("s").Version
	t.Setenv("NEWSVC_VERSION", "v1.2.3-4-gabcdef0")
	if got := stack.FromProcess("s").Sources.Version; got != "v1.2.3-4-gabcdef0" {
		t.Errorf("--version prints %q", got)
	}
	if got := stack.FromProcess("s").Version; got != "v1.2.3-4-gabcdef0" {
		t.Errorf("the version is %q, want that of the environment", got)
	}
	t.Setenv("NEWSVC_VERSION", "") // as in an image that was built without --build-arg
	if got := stack.FromProcess("s").Version; got != without {
		t.Errorf("the version is %q, want that of the binary, %q", got, without)
	}
}
