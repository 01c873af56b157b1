package faulttest

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// Table is what a run of rows showed, as a page.
type Table struct {
	// Facts are about the machine and the versions, one a line.
	Facts []string
	// About says of each adapter what it is.
	About map[string]string
	// Options are those of the run.
	Options RowOptions
	// Results are the rows in their order; all have the same adapters.
	Results []Result
}

// pageHead and pageFoot are what stands around the table. The page is checked like any other documentation.
const (
	pageHead = `# Faults

Written by ` + "`make faults`" + `; do not edit.

What callers notice of faults of etcd, of links and of processes. All implementations stand side by side against the one
etcd of a row, each with servers and a caller of its own, in real processes; the caller calls all the time.

`
	pageRead = `
## How to read it

- A row is void, and says nothing, unless it was proven that the fault took place; *proof* is how. It is void, too, and run
  again, when the machine was so busy with other things that calls could not be made in time.
- *failed* are the calls that failed, of all that were made from the beginning of the fault to the end of the row. Living
  servers that could have answered were there all the time, but where all are restarted at once. Where half of the calls
  must not be repeated, those are shown apart, as *writes*: the ones that a killed server had begun cannot but fail. Shown
  apart is also what was sent to a server that stands still, and was not answered in time: no living server had it.
  *misrouted* calls were answered, or run, by another service than the one that was called.
- *well after* is the time from the end of the fault until every living server, also the ones that were started during
  it, has answered calls and stands in etcd, and those that left do not. Keys of servers that were killed, or that left while
  etcd did not answer, may stay until their leases have ended, which is looked at at the end of the row. Where a row counts
  from elsewhere, it says so. *limit* is what newsvc promises. "never" means not within the limit and %s more; what was
  missing then stands below.
- *rows* are the failures of the design's tables that a row shows: A are those of registration, B of resolving, C of
  connections, D of starting and stopping.

`
	pageFoot = `
## One row

    cd bench && go run ./faults -only etcd-frozen

prints one row and leaves this page alone; ` + "`-adapters newsvc`" + ` runs one implementation, ` + "`-log FILE`" + ` keeps what the processes
write. The rows are data in [rows.go](../framework/discovery/faulttest/rows.go) and the files beside it, the other implementations are in
[bench/faults](../bench/faults).
`
)

// Write writes the page.
func (t Table) Write(w io.Writer) error {
	var b strings.Builder
	b.WriteString(pageHead)
	for _, f := range t.Facts {
		fmt.Fprintf(&b, "- %s\n", f)
	}
	b.WriteString("\n")
	t.rows(&b)
	fmt.Fprintf(&b, pageRead, seconds(t.grace()))
	t.about(&b)
	t.failures(&b)
	b.WriteString(pageFoot)
	_, err := io.WriteString(w, b.String())
	return err
}

func (t Table) grace() time.Duration { return orDuration(t.Options.Grace, 3*time.Second) }

func (t Table) adapters() (names []string) {
	for _, r := range t.Results {
		if len(r.Cells) > len(names) {
			names = nil
			for _, c := range r.Cells {
				names = append(names, c.Adapter)
			}
		}
	}
	return names
}

// rows writes the table itself. A test of the repository reads its first, second and fourth column.
func (t Table) rows(b *strings.Builder) {
	names := t.adapters()
	b.WriteString("| id | rows | fault | proof | limit | calls/s |")
	for _, n := range names {
		fmt.Fprintf(b, " %s failed | %s well after |", n, n)
	}
	b.WriteString("\n| --- | --- | --- | --- | --- | --- |" + strings.Repeat(" --- | --- |", len(names)) + "\n")
	for _, r := range t.Results {
		proof := plain(r.Proof)
		if r.Void != "" {
			proof = "**void**: " + plain(r.Void)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s | %s |", r.Row.ID, strings.Join(r.Row.Covers, ", "), plain(r.fault()), proof, seconds(r.Row.Limit), r.rate())
		for i := range names {
			if r.Void != "" || i >= len(r.Cells) {
				b.WriteString(" void | void |")
				continue
			}
			c := r.Cells[i]
			fmt.Fprintf(b, " %s | %s |", c.lost(), c.well())
		}
		b.WriteString("\n")
	}
}

// seconds is a limit as people write it.
func seconds(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }

func (r Result) fault() string {
	if r.Row.From == "" {
		return r.Row.Fault
	}
	return r.Row.Fault + ". Counted from " + r.Row.From
}

// rate is the lowest rate of any adapter.
func (r Result) rate() string {
	if len(r.Cells) == 0 {
		return "-"
	}
	low := 0.0
	for _, c := range r.Cells {
		if c.Void == "" && (low == 0 || c.Rate < low) {
			low = c.Rate
		}
	}
	return fmt.Sprintf("%.0f", low)
}

// lost is the first of an adapter's columns.
func (c Cell) lost() string {
	if c.Void != "" {
		return "void"
	}
	text := fmt.Sprintf("%d of %d", c.Failed, c.Total)
	if c.Writes > 0 {
		text = fmt.Sprintf("%d of %d, writes %d of %d", c.Failed-c.FailedWrites, c.Total-c.Writes, c.FailedWrites, c.Writes)
	}
	if c.Silent > 0 {
		text += fmt.Sprintf(", %d sent to the silent server", c.Silent)
	}
	if n := max(c.Misrouted, c.Foreign); n > 0 {
		text += fmt.Sprintf(", %d misrouted", n)
	}
	return text
}

// well is the second.
func (c Cell) well() string {
	switch {
	case c.Void != "":
		return "void"
	case c.Missing != "":
		return "never"
	case c.Converged:
		return fmt.Sprintf("%.1f s", c.After.Seconds())
	}
	return fmt.Sprintf("late: %.1f s", c.After.Seconds())
}

func (t Table) about(b *strings.Builder) {
	b.WriteString("## What stands beside each other\n\n")
	for _, n := range t.adapters() {
		fmt.Fprintf(b, "- **%s**: %s\n", n, t.About[n])
	}
}

// failures lists what is behind the cells that are not as they should be.
func (t Table) failures(b *strings.Builder) {
	b.WriteString("\n## What failed\n\nThe first failed call of each cell that has one, and what was missing where it never was well.\n\n")
	n := 0
	for _, r := range t.Results {
		for _, c := range r.Cells {
			if text := c.trouble(); r.Void == "" && text != "" {
				fmt.Fprintf(b, "- `%s`, %s: %s\n", r.Row.ID, c.Adapter, plain(text))
				n++
			}
		}
	}
	if n == 0 {
		b.WriteString("Nothing.\n")
	}
}

func (c Cell) trouble() string {
	if c.Void != "" {
		return "void: " + c.Void
	}
	late := ""
	if c.LateBy > 100*time.Millisecond {
		late = fmt.Sprintf("calls returned up to %v after their deadline", c.LateBy.Round(100*time.Millisecond))
	}
	return join(join(c.Missing, c.FirstError), late)
}

// plain makes a text fit into a cell of a table.
func plain(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > 300 {
		text = string(runes[:300]) + "…"
	}
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "[", "\\[", "`", "'", "*", "\\*").Replace(text)
}
