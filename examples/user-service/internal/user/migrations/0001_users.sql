CREATE TABLE users (
  id           TEXT PRIMARY KEY,
  email        TEXT NOT NULL,
  email_key    TEXT NOT NULL UNIQUE, -- lower case: what makes two emails the same
  display_name TEXT NOT NULL,
  created      INTEGER NOT NULL, -- microseconds since 1970, UTC
  updated      INTEGER NOT NULL
) WITHOUT ROWID;

-- Every change with the user after it. Written in the transaction of the change, and writers are serialised, so seq is
-- the order of commits; AUTOINCREMENT never gives a number twice, even after old rows were removed.
CREATE TABLE changes (
  seq          INTEGER PRIMARY KEY AUTOINCREMENT,
  kind         INTEGER NOT NULL, -- 1 created, 2 updated, 3 deleted
  id           TEXT NOT NULL,
  email        TEXT NOT NULL,
  display_name TEXT NOT NULL,
  created      INTEGER NOT NULL,
  updated      INTEGER NOT NULL
);

-- One row: the identity of this data, so that a resume token of other data is recognised.
CREATE TABLE identity (id TEXT NOT NULL);
INSERT INTO identity (id) VALUES (lower(hex(randomblob(16))));
