-- schema.sql - what a node remembers.  Compiled into the program; one owner thread, one connection.
-- Every blob of numbers is little-endian.  No string literals with double quotes or backslashes here.

-- run 32 | instance: token of the last start 16, of this start 16 | whatever the node keeps by name
CREATE TABLE meta (k TEXT PRIMARY KEY, v BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- an author is a key in one incarnation; void: the first gradient that does not count, NULL: all do
CREATE TABLE author (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL CHECK (length(key) = 32),
    inc INTEGER NOT NULL CHECK (inc BETWEEN 0 AND 15),
    void INTEGER,
    banned INTEGER NOT NULL DEFAULT 0,
    UNIQUE (key, inc)
) STRICT;

-- n sealed bytes, C_j of j = n div 1024, the seal of n; base: first byte held (0, or a checkpoint's cut, where a
-- chunk begins), mark: C_j there, NULL where base is 0.  Format 1 had no mark and no base above 0.
CREATE TABLE log (
    author INTEGER NOT NULL REFERENCES author,
    stream INTEGER NOT NULL CHECK (stream IN (0, 1)),
    n INTEGER NOT NULL,
    cj BLOB NOT NULL CHECK (length(cj) = 32),
    seal BLOB NOT NULL CHECK (length(seal) = 64),
    base INTEGER NOT NULL DEFAULT 0,
    mark BLOB CHECK (mark IS NULL OR length(mark) = 32),
    PRIMARY KEY (author, stream)
) STRICT, WITHOUT ROWID;

-- bytes 1024 j .. of a log; sum = XXH3-64 of b, seeded with j: finds bit rot.  With rowid: three rows fit a page
-- of 4096, while WITHOUT ROWID keeps at most 1002 bytes of a row in the tree and would give each a page more.
CREATE TABLE chunk (
    author INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    j INTEGER NOT NULL,
    b BLOB NOT NULL CHECK (length(b) BETWEEN 1 AND 1024),
    sum INTEGER NOT NULL,
    UNIQUE (author, stream, j)
) STRICT;

-- where a member was reached; last_ok in UTC seconds, 0: never
CREATE TABLE addr (
    key BLOB PRIMARY KEY CHECK (length(key) = 32),
    addr BLOB NOT NULL,
    seq INTEGER NOT NULL,
    last_ok INTEGER NOT NULL,
    fails INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- tickets given out; uses left; expires in UTC seconds, 0: never
CREATE TABLE invite (
    id INTEGER PRIMARY KEY,
    seed BLOB NOT NULL CHECK (length(seed) = 16),
    uses INTEGER NOT NULL CHECK (uses >= 0),
    expires INTEGER NOT NULL
) STRICT;

-- the coordinates a, int32, after `records` records, those of vv; digest = XXH3-128 of a, sum = XXH3-64 of vv
CREATE TABLE ckpt (
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL CHECK (length(digest) = 16),
    vv BLOB NOT NULL,
    sum INTEGER NOT NULL,
    a BLOB NOT NULL,
    records INTEGER NOT NULL
) STRICT;

-- files named by their BLAKE2b-256: the basis, checkpoints that are served
CREATE TABLE file (digest BLOB PRIMARY KEY CHECK (length(digest) = 32), bytes BLOB NOT NULL) STRICT;
