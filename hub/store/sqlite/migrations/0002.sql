-- Images that the hub holds. Of several pushes under one name the last is what the name
-- means.
CREATE TABLE images (
  name   TEXT NOT NULL,
  digest TEXT NOT NULL,
  pushed INTEGER NOT NULL,
  body   TEXT NOT NULL,
  PRIMARY KEY (name, digest)
) WITHOUT ROWID;
