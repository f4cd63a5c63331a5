-- What is queried has its own column; the rest of a row is JSON in body. Times are
-- nanoseconds since 1970 UTC, 0 where there is none.

CREATE TABLE apps (
  kind    TEXT NOT NULL,
  name    TEXT NOT NULL,
  version TEXT NOT NULL,
  active  INTEGER NOT NULL,
  bundle  TEXT NOT NULL,
  body    TEXT NOT NULL,
  PRIMARY KEY (kind, name, version)
) WITHOUT ROWID;

CREATE TABLE templates (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE schemas (
  id      TEXT NOT NULL,
  version TEXT NOT NULL,
  body    TEXT NOT NULL,
  PRIMARY KEY (id, version)
) WITHOUT ROWID;

CREATE TABLE presets (
  template TEXT NOT NULL,
  id       TEXT NOT NULL,
  body     TEXT NOT NULL,
  PRIMARY KEY (template, id)
) WITHOUT ROWID;

-- A job's number stands for its id in the big tables.
CREATE TABLE jobs (
  number  INTEGER PRIMARY KEY AUTOINCREMENT,
  id      TEXT NOT NULL UNIQUE,
  owner   TEXT NOT NULL,
  state   TEXT NOT NULL,
  created INTEGER NOT NULL,
  body    TEXT NOT NULL
);
CREATE INDEX jobs_newest ON jobs (created, number);

-- Input and params are written once; the scheduler's turns change the rest.
CREATE TABLE tasks (
  job          INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  chunk        INTEGER NOT NULL,
  state        TEXT NOT NULL,
  attempts     INTEGER NOT NULL,
  not_before   INTEGER NOT NULL,
  node         TEXT NOT NULL,
  error        TEXT NOT NULL,
  result       TEXT, -- JSON
  tries        TEXT, -- JSON
  input_name   TEXT NOT NULL,
  input_digest TEXT NOT NULL,
  input_size   INTEGER NOT NULL,
  params       TEXT, -- JSON
  input        BLOB, -- the content where it is small; else it is in the blob store
  PRIMARY KEY (job, chunk)
) WITHOUT ROWID;

CREATE TABLE attempts (
  job     INTEGER NOT NULL REFERENCES jobs ON DELETE CASCADE,
  chunk   INTEGER NOT NULL,
  number  INTEGER NOT NULL,
  node    TEXT NOT NULL,
  granted INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  ended   INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  body    TEXT, -- JSON: how it ended
  log     TEXT,
  PRIMARY KEY (job, chunk, number)
) WITHOUT ROWID;
CREATE INDEX attempts_live ON attempts (job, chunk, number) WHERE outcome = '';

CREATE TABLE records (
  node      TEXT NOT NULL,
  app       TEXT NOT NULL,
  finished  REAL NOT NULL,
  abandoned REAL NOT NULL,
  "right"   REAL NOT NULL,
  wrong     REAL NOT NULL,
  failed    REAL NOT NULL,
  PRIMARY KEY (node, app)
) WITHOUT ROWID;

CREATE TABLE nodes (id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE tokens (hash TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE keys (
  id   TEXT PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,
  body TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
