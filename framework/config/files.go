package config

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"maps"
	"os"
)

// sighting is what was seen of a file: the sum of its contents, or that it could not be read, and how.
type sighting struct {
	sum    [sha256.Size]byte
	absent bool
	failed string
}

// sightings are what was seen of all files that were looked at, by path. Contents are compared, and not times or sizes: a
// symbolic link that is exchanged above a file (Kubernetes does that), a rename over it and two writes within one tick of
// the file system's clock are all alike then.
type sightings map[string]sighting

// read reads a file and notes what it saw.
func (s sightings) read(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s[path] = sighting{absent: true}
	case err != nil:
		s[path] = sighting{failed: err.Error()}
	default:
		s[path] = sighting{sum: sha256.Sum256(data)}
	}
	return data, err
}

// there says whether a file was read.
func (s sightings) there(path string) bool {
	saw, known := s[path]
	return known && !saw.absent && saw.failed == ""
}

// again looks at the same files once more.
func (s sightings) again() sightings {
	now := make(sightings, len(s))
	for path := range s {
		_, _ = now.read(path) // what failed is noted
	}
	return now
}

func (s sightings) equal(o sightings) bool { return maps.Equal(s, o) }
