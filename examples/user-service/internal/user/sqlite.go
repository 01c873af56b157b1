package user

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// openTimeout bounds opening and migrating, which replicas that start together do one after the other.
const openTimeout = 10 * time.Second

// SQLiteStore is a [Store] in one SQLite file, which several processes on one machine may share.
//
// Writers, in this process and in others, take turns: in this process they queue for the one connection that writes,
// among processes they ask for SQLite's write lock, which every transaction takes at its beginning (BEGIN IMMEDIATE), so
// that none fails half way. Readers are not held up (WAL).
type SQLiteStore struct {
	id     string // identity of the data
	path   string
	keep   int64
	poll   time.Duration
	busy   time.Duration // how long a write waits for its turn
	writer *sql.DB
	reader *sql.DB
	news   news

	closing sync.Once
	closed  chan struct{}
	failure error // of Close
}

var _ Store = (*SQLiteStore)(nil)

// OpenSQLite opens the file cfg.Path, makes it when missing and brings its schema up to date.
func OpenSQLite(cfg Config) (*SQLiteStore, error) {
	// The directory holds personal data: nobody else needs to look in.
	if err := os.MkdirAll(filepath.Dir(cfg.Path), 0o700); err != nil {
		return nil, fmt.Errorf("open users %q: make its directory: %w; set path to a place this process may write", cfg.Path, err)
	}
	s := &SQLiteStore{path: cfg.Path, keep: int64(cfg.KeepChanges), poll: cfg.PollInterval, busy: cfg.BusyTimeout, closed: make(chan struct{})}
	var err error
	if s.writer, err = openDB(cfg, "_txlock=immediate"); err != nil {
		return nil, fmt.Errorf("open users %q: %w", cfg.Path, err)
	}
	s.writer.SetMaxOpenConns(1)
	if s.reader, err = openDB(cfg, "_query_only=1"); err != nil {
		return nil, errors.Join(fmt.Errorf("open users %q: %w", cfg.Path, err), s.writer.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openDB opens nothing yet: connections are made when they are used.
func openDB(cfg Config, options string) (*sql.DB, error) {
	path := (&url.URL{Path: filepath.ToSlash(cfg.Path)}).EscapedPath()
	// synchronous stays FULL: what was answered is on the disk.
	dsn := "file:" + path + "?_busy_timeout=" + strconv.FormatInt(cfg.BusyTimeout.Milliseconds(), 10) + "&" + options
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (s *SQLiteStore) prepare(ctx context.Context) error {
	if err := s.enterWAL(ctx); err != nil {
		return s.failed("prepare the file", err)
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.writer.QueryRowContext(ctx, "SELECT id FROM identity").Scan(&s.id); err != nil {
		return s.failed("read the identity", err)
	}
	return nil
}

// enterWAL makes the file one that readers and a writer can use at a time; it stays so. While another process looks at a
// new file SQLite refuses this at once, whatever its busy timeout.
func (s *SQLiteStore) enterWAL(ctx context.Context) error {
	return whileBusy(ctx, time.Now().Add(openTimeout), func() error {
		_, err := s.writer.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		return err
	})
}

// Create implements [Store].
func (s *SQLiteStore) Create(ctx context.Context, u User) error {
	return s.write(ctx, "create user", func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `INSERT INTO users (id, email, email_key, display_name, created, updated)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (email_key) DO NOTHING`,
			u.ID, u.Email, emailKey(u.Email), u.DisplayName, u.Created.UnixMicro(), u.Updated.UnixMicro())
		if err := oneRow(res, err, ErrEmailTaken); err != nil {
			return err
		}
		return s.record(ctx, tx, Created, u)
	})
}

// Get implements [Store].
func (s *SQLiteStore) Get(ctx context.Context, id string) (User, error) {
	u, err := scanUser(s.reader.QueryRowContext(ctx, selectUser+"WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return User{}, ErrNotFound
	}
	return u, s.failed("get user", err)
}

// List implements [Store].
func (s *SQLiteStore) List(ctx context.Context, after string, limit int) ([]User, error) {
	rows, err := s.reader.QueryContext(ctx, selectUser+"WHERE id > ? ORDER BY id LIMIT ?", after, limit)
	if err != nil {
		return nil, s.failed("list users", err)
	}
	defer rows.Close()
	var page []User
	for rows.Next() {
		u, err := scanUser(rows)
		if err != nil {
			return nil, s.failed("list users", err)
		}
		page = append(page, u)
	}
	return page, s.failed("list users", rows.Err())
}

// Update implements [Store].
func (s *SQLiteStore) Update(ctx context.Context, id string, change func(*User)) (User, error) {
	var u User
	err := s.write(ctx, "update user", func(tx *sql.Tx) error {
		old, err := scanUser(tx.QueryRowContext(ctx, selectUser+"WHERE id = ?", id))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		u = old
		if change(&u); u == old {
			return nil
		}
		res, err := tx.ExecContext(ctx, "UPDATE OR IGNORE users SET email = ?, email_key = ?, display_name = ?, updated = ? WHERE id = ?",
			u.Email, emailKey(u.Email), u.DisplayName, u.Updated.UnixMicro(), id)
		if err := oneRow(res, err, ErrEmailTaken); err != nil {
			return err
		}
		return s.record(ctx, tx, Updated, u)
	})
	if err != nil {
		return User{}, err
	}
	return u, nil
}

// Delete implements [Store].
func (s *SQLiteStore) Delete(ctx context.Context, id string) error {
	return s.write(ctx, "delete user", func(tx *sql.Tx) error {
		u, err := scanUser(tx.QueryRowContext(ctx, "DELETE FROM users WHERE id = ? RETURNING id, email, display_name, created, updated", id))
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNotFound
		}
		if err != nil {
			return err
		}
		return s.record(ctx, tx, Deleted, u)
	})
}

// Close implements [Store]. It waits for statements under way.
func (s *SQLiteStore) Close() error {
	s.closing.Do(func() {
		close(s.closed)
		if err := errors.Join(s.reader.Close(), s.writer.Close()); err != nil {
			s.failure = fmt.Errorf("close users %q: %w", s.path, err)
		}
	})
	return s.failure
}

// write runs do in a transaction that holds the write lock from its beginning.
func (s *SQLiteStore) write(ctx context.Context, what string, do func(*sql.Tx) error) error {
	until := time.Now().Add(s.busy)
	conn, err := s.writer.Conn(ctx)
	if err != nil {
		return s.failed(what, err)
	}
	defer func() { _ = conn.Close() }() // gives it back
	tx, err := begin(ctx, conn, until)
	if err != nil {
		return s.failed(what, err)
	}
	defer func() { _ = tx.Rollback() }() // says that it is over when it was committed
	if err := do(tx); err != nil {
		return s.failed(what, err)
	}
	if err := tx.Commit(); err != nil {
		return s.failed(what, err)
	}
	s.news.tell()
	return nil
}

// begin takes the write lock, asking for it every millisecond or so. SQLite's own way of waiting sleeps longer and longer,
// up to 100ms: who has waited long then hardly finds it free, while newcomers do.
func begin(ctx context.Context, conn *sql.Conn, until time.Time) (*sql.Tx, error) {
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout = 0"); err != nil {
		return nil, err
	}
	var tx *sql.Tx
	err := whileBusy(ctx, until, func() (err error) {
		tx, err = conn.BeginTx(ctx, nil)
		return err
	})
	return tx, err
}

// whileBusy does something again every millisecond or so until it succeeds, fails for another reason than that the file
// is busy, or its time is over.
func whileBusy(ctx context.Context, until time.Time, do func() error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		err := do()
		if err == nil || !isBusy(err) || time.Now().After(until) {
			return err
		}
		timer.Reset(around(time.Millisecond))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func isBusy(err error) bool {
	code, ok := errors.AsType[*sqlite.Error](err)
	return ok && code.Code()&0xff == sqlite3.SQLITE_BUSY
}

// failed says what was tried on which file, and gives errors of the driver the names of [Store].
func (s *SQLiteStore) failed(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, own := range []error{ErrNotFound, ErrEmailTaken, ErrPositionLost} {
		if errors.Is(err, own) {
			return own
		}
	}
	select {
	case <-s.closed:
		return ErrClosed
	default:
	}
	if isBusy(err) {
		return fmt.Errorf("%s in %q: %w: %w", what, s.path, ErrBusy, err)
	}
	return fmt.Errorf("%s in %q: %w", what, s.path, err)
}

const selectUser = "SELECT id, email, display_name, created, updated FROM users "

func scanUser(row interface{ Scan(dest ...any) error }) (User, error) {
	var (
		u                User
		created, updated int64
	)
	if err := row.Scan(&u.ID, &u.Email, &u.DisplayName, &created, &updated); err != nil {
		return User{}, err
	}
	u.Created, u.Updated = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return u, nil
}

// oneRow answers otherwise when a statement that succeeded changed nothing.
func oneRow(res sql.Result, err, otherwise error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		return otherwise
	}
	return err
}
