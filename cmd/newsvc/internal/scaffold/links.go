package scaffold

import (
	// What new projects are built from is linked into this command, so that `go install` of it has downloaded all they
	// need: a service can be created, built and tested on a machine that is offline from then on.
	_ "github.com/newsvc/newsvc/framework/app"
	_ "github.com/newsvc/newsvc/framework/apptest" // likewise, for its tests
)
