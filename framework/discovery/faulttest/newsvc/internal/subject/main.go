// Command subject is what the fault suite starts for each process of a test of newsvc: a member of etcd, a server or a
// client. It does nothing without the suite.
package main

import (
	"fmt"
	"os"

	"github.com/newsvc/newsvc/framework/discovery/faulttest"
	"github.com/newsvc/newsvc/framework/discovery/faulttest/newsvc"
)

func main() {
	code, ran := faulttest.Main(newsvc.Adapters()...)
	if !ran {
		fmt.Fprintln(os.Stderr, "subject: started without a role; it is the fault suite that starts it")
		code = 2
	}
	os.Exit(code) //nolint:forbidigo // a main: that is its work
}
