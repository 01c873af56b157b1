package user

import (
	"context"
	"database/sql"
	"time"
)

// record adds a change in the transaction that makes it, and drops those too old to keep.
func (s *SQLiteStore) record(ctx context.Context, tx *sql.Tx, kind Kind, u User) error {
	res, err := tx.ExecContext(ctx, "INSERT INTO changes (kind, id, email, display_name, created, updated) VALUES (?, ?, ?, ?, ?, ?)",
		kind, u.ID, u.Email, u.DisplayName, u.Created.UnixMicro(), u.Updated.UnixMicro())
	if err != nil {
		return err
	}
	seq, err := res.LastInsertId()
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM changes WHERE seq <= ?", seq-s.keep)
	return err
}

// Position implements [Store].
func (s *SQLiteStore) Position(ctx context.Context) (Position, error) {
	_, last, err := s.bounds(ctx)
	return Position{s.id, last}, err
}

// Changes implements [Store]. Changes of this process wake it, those of others it finds within the poll interval.
func (s *SQLiteStore) Changes(ctx context.Context, after Position, limit int) ([]Change, error) {
	timer := time.NewTimer(around(s.poll))
	defer timer.Stop()
	for {
		changed := s.news.wait()
		changes, err := s.kept(ctx, after, limit)
		if err != nil || len(changes) > 0 {
			return changes, err
		}
		select {
		case <-changed:
		case <-timer.C:
			timer.Reset(around(s.poll))
		case <-s.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *SQLiteStore) kept(ctx context.Context, after Position, limit int) ([]Change, error) {
	first, last, err := s.bounds(ctx)
	switch {
	case err != nil:
		return nil, err
	case after.Store != s.id || after.Seq < first-1 || after.Seq > last:
		return nil, ErrPositionLost
	case after.Seq == last:
		return nil, nil
	}
	changes, err := s.read(ctx, after.Seq, limit)
	if err != nil {
		return nil, s.failed("read changes", err)
	}
	// Numbers have no gaps, so one at the beginning means that somebody dropped old changes since we looked.
	if len(changes) == 0 || changes[0].Position.Seq != after.Seq+1 {
		return nil, ErrPositionLost
	}
	return changes, nil
}

// bounds answers the numbers of the first and the last change kept; 0 and 0 when there never was one.
func (s *SQLiteStore) bounds(ctx context.Context) (first, last int64, err error) {
	err = s.reader.QueryRowContext(ctx,
		"SELECT coalesce((SELECT min(seq) FROM changes), 0), coalesce((SELECT max(seq) FROM changes), 0)").Scan(&first, &last)
	return first, last, s.failed("read changes", err)
}

func (s *SQLiteStore) read(ctx context.Context, after int64, limit int) ([]Change, error) {
	rows, err := s.reader.QueryContext(ctx,
		"SELECT seq, kind, id, email, display_name, created, updated FROM changes WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var changes []Change
	for rows.Next() {
		c := Change{Position: Position{Store: s.id}}
		var created, updated int64
		if err := rows.Scan(&c.Position.Seq, &c.Kind, &c.User.ID, &c.User.Email, &c.User.DisplayName, &created, &updated); err != nil {
			return nil, err
		}
		c.User.Created, c.User.Updated = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
		changes = append(changes, c)
	}
	return changes, rows.Err()
}
