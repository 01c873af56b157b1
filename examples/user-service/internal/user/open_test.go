package user_test

import (
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/newsvc/newsvc/examples/user-service/internal/user"
)

// Replicas that start together on a file that does not exist yet all have to make it a WAL file, which SQLite refuses at
// once, without waiting, while another one looks at it.
func TestReplicasMayOpenANewFileTogether(t *testing.T) {
	t.Parallel()
	for range 20 {
		cfg := user.DefaultConfig()
		cfg.Path = filepath.Join(t.TempDir(), "users.db")
		var g errgroup.Group
		stores := make([]*user.SQLiteStore, 8)
		for i := range stores {
			g.Go(func() (err error) {
				stores[i], err = user.OpenSQLite(cfg)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, s := range stores {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
