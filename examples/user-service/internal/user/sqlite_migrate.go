package user

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
)

// Migrations run in the order of their names and never change once released: add a file instead.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date. Replicas that start together wait for each other: the transaction holds the
// write lock while it looks.
func (s *SQLiteStore) migrate(ctx context.Context) error {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	return s.write(ctx, "migrate the schema", func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL)"); err != nil {
			return err
		}
		var done int
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM migrations").Scan(&done); err != nil {
			return err
		}
		if done > len(files) {
			return fmt.Errorf("the file has schema version %d and this program knows only %d; run the newer program, or set path to another file", done, len(files))
		}
		for i, name := range files[done:] {
			if err := apply(ctx, tx, done+i+1, name); err != nil {
				return err
			}
		}
		return nil
	})
}

func apply(ctx context.Context, tx *sql.Tx, version int, name string) error {
	text, err := fs.ReadFile(migrations, name)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, string(text)); err != nil {
		return fmt.Errorf("apply %q: %w", name, err)
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO migrations (version, name) VALUES (?, ?)", version, name)
	return err
}
