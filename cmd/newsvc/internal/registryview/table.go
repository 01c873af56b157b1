package registryview

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/newsvc/newsvc/framework/discovery"
)

// Row is one instance as it is shown. What an instance does not say is empty.
type Row struct {
	Service  string          `json:"service"`
	Instance string          `json:"instance"`
	Address  string          `json:"address"`
	Version  string          `json:"version"`
	Zone     string          `json:"zone"`
	Weight   int             `json:"weight,omitempty"`
	State    discovery.State `json:"state"`
	Since    time.Time       `json:"since,omitzero"`
	Admin    string          `json:"admin,omitempty"`
}

// RowOf shows an instance.
func RowOf(i *discovery.Instance) Row {
	return Row{
		Service: i.Service, Instance: i.Incarnation, Address: i.Addr, Version: i.Version, Zone: i.Zone, Weight: i.Weight,
		State: i.State, Since: Since(i), Admin: i.Admin,
	}
}

// Rows shows instances.
func Rows(instances []*discovery.Instance) []Row {
	rows := make([]Row, len(instances))
	for n, i := range instances {
		rows[n] = RowOf(i)
	}
	return rows
}

// shortest is how much of an instance's name is shown at least.
const shortest = 4

// Short is the beginning of an instance's name; "-" for an empty one.
func Short(instance string, length int) string {
	if instance == "" {
		return "-"
	}
	return strings.ToLower(instance[:min(len(instance), length)])
}

// ShortLength is how long names have to be for each to be told from the others.
func ShortLength(rows []Row) int {
	for n := shortest; ; n++ {
		seen := map[string]string{}
		if !slices.ContainsFunc(rows, func(r Row) bool {
			was, taken := seen[Short(r.Instance, n)]
			seen[Short(r.Instance, n)] = r.Instance
			return taken && was != r.Instance
		}) {
			return n
		}
	}
}

// WriteTable writes rows for people; nothing at all when there are none.
func WriteTable(w io.Writer, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	length := ShortLength(rows)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tINSTANCE\tADDRESS\tVERSION\tZONE\tWEIGHT\tSTATE\tSINCE")
	for _, r := range rows {
		weight, since := "", ""
		if r.Weight > 0 {
			weight = strconv.Itoa(r.Weight)
		}
		if !r.Since.IsZero() {
			since = r.Since.Local().Format(time.DateTime)
		}
		cells := []string{r.Service, Short(r.Instance, length), r.Address, r.Version, r.Zone, weight, string(r.State), since}
		for n, c := range cells {
			if c == "" {
				cells[n] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}
