package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/newsvc/newsvc/cmd/newsvc/internal/addrpc"
	"github.com/newsvc/newsvc/cmd/newsvc/internal/generate"
)

// rpcs looks for methods that the .proto files have and the Go code has not. What else may be wrong with either is told by
// generated, and by the compiler.
func (x *examination) rpcs(ctx context.Context) []Finding {
	if x.gomod == nil || x.placeErr != nil {
		return nil
	}
	missed, err := addrpc.FindUnwritten(ctx, x.Dir)
	if err != nil {
		return nil // told by generated
	}
	var found []Finding
	for _, m := range missed {
		found = append(found, Finding{
			Level: Warn, What: fmt.Sprintf("%s has no method %s of %s, so calls of it end with UNIMPLEMENTED", m.Type, m.Method, m.Service),
			At: strings.Join(append([]string{m.At}, m.Idle...), "\n"), Fix: m.Add,
		})
	}
	return found
}

// copies compares the .proto files that add client has copied with where they came from, where that can be read.
func (x *examination) copies(context.Context) []Finding {
	if x.placeErr != nil || x.place.ServiceDir == "" {
		return nil
	}
	var found []Finding
	_ = filepath.WalkDir(x.place.ProtoDir(x.place.ServiceDir), func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".proto" {
			return nil //nolint:nilerr // told by generated
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil //nolint:nilerr // told by generated
		}
		c, copied := generate.ReadCopy(text)
		if !copied {
			return nil
		}
		original, err := os.ReadFile(absolute(x.place.ServiceDir, filepath.FromSlash(c.Source)))
		if err != nil || c.Of(original) {
			return nil //nolint:nilerr // it may be on another machine
		}
		found = append(found, Finding{
			Level: Warn, What: fmt.Sprintf("%s is a copy of what %s was; that has changed since", generate.Shown(x.Dir, name), c.Source),
			At: name, Fix: x.inService(c.Again),
		})
		return nil
	})
	return found
}

// inService is a command for the directory of the service, as it is typed here.
func (x *examination) inService(command string) string {
	rest, ok := strings.CutPrefix(command, "newsvc ")
	if !ok || sameDir(x.Dir, x.place.ServiceDir) {
		return command
	}
	return "newsvc -C " + quote(x.place.ServiceDir) + " " + rest
}
