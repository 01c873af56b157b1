package scaffold

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/newsvc/newsvc/templates"
)

// pristine keeps the files as they were rendered, so that a later newsvc can tell the author's changes from its own. It
// lies in dir, and names files as they are listed.
func pristine(dir string, files []File) (File, error) {
	a := &txtar.Archive{Comment: []byte("What newsvc wrote. It is the base for merging later templates; do not edit.\n")}
	for _, f := range files {
		if strings.HasPrefix(f.Path, path.Join(dir, ".newsvc")+"/") {
			continue
		}
		a.Files = append(a.Files, txtar.File{Name: f.Path, Data: f.Content})
	}
	slices.SortFunc(a.Files, func(x, y txtar.File) int { return strings.Compare(x.Name, y.Name) })
	text := txtar.Format(a)
	for i, back := range txtar.Parse(text).Files {
		if i >= len(a.Files) || back.Name != a.Files[i].Name || !bytes.Equal(back.Data, a.Files[i].Data) {
			return File{}, fmt.Errorf("the archive of templates cannot hold %q", back.Name)
		}
	}
	return File{path.Join(dir, ".newsvc/base.txtar"), text}, nil
}

// record is template.json: what wrote the project.
type record struct {
	Template string            `json:"template"` // service, gateway or workspace
	Version  int               `json:"version"`
	Newsvc   string            `json:"newsvc"`
	Name     string            `json:"name,omitempty"`
	Module   string            `json:"module"`
	InRepo   bool              `json:"in_repo,omitempty"`
	Within   string            `json:"within,omitempty"` // of a service in a workspace: its directory there; paths are relative to the workspace
	Overlay  bool              `json:"overlay,omitempty"`
	Files    map[string]string `json:"sha256"`
}

// about adds the checksum of each file as it was written.
func (r record) about(dir string, files []File) (File, error) {
	r.Version = templates.Version
	r.Files = map[string]string{}
	for _, f := range files {
		sum := sha256.Sum256(f.Content)
		r.Files[f.Path] = hex.EncodeToString(sum[:])
	}
	text, err := json.MarshalIndent(r, "", "  ")
	return File{path.Join(dir, ".newsvc/template.json"), append(text, '\n')}, err
}
