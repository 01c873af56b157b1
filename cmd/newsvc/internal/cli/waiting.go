package cli

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// patience is how long a command may work without a word to whoever looks on.
const patience = 2 * time.Second

// waits is the annotation of a command that may take longer than that: what it is doing then.
const waits = "waits"

// waiting is one line on a terminal, which comes when a command takes long and has not printed anything. Nil never comes.
type waiting struct {
	timer *time.Timer

	mu   sync.Mutex
	over bool
}

// wait begins to wait for what cmd prints. Programs that read stderr are not disturbed.
func (g *globals) wait(cmd *cobra.Command) {
	what, slow := cmd.Annotations[waits]
	out, mine := cmd.OutOrStdout().(*result)
	stderr, isFile := cmd.ErrOrStderr().(*os.File)
	if f := cmd.Flags().Lookup("watch"); f != nil && f.Changed {
		return // it is asked to be silent for hours
	}
	if !slow || !mine || !isFile || g.quiet || g.output == "json" || !terminal(stderr) {
		return
	}
	w := &waiting{}
	w.timer = time.AfterFunc(patience, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over {
			fmt.Fprintf(stderr, "  wait      %s\n", what)
		}
	})
	out.waiting = w
}

// end is the first line of the result, or the end of the command.
func (w *waiting) end() {
	if w == nil {
		return
	}
	w.timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// terminal reports whether people look at f.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
