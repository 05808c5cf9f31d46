-- How far each Kafka partition has been stored, and the messages that could not become rows.

-- committed_offset is the next offset to read. An epoch is one life of one cluster: offsets of another mean nothing.
CREATE TABLE IF NOT EXISTS kafka_offsets (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    committed_offset BIGINT NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

-- One line for each range of messages that was stored; for a partition they follow one another without gap or overlap.
CREATE TABLE IF NOT EXISTS ingest_ranges (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    start_offset BIGINT NOT NULL,
    end_offset BIGINT NOT NULL,
    stored_at TIMESTAMP NOT NULL
);

-- Every ingest transaction updates this one row, so that two of them can never both commit the same offsets.
CREATE TABLE IF NOT EXISTS ingest_commits (commits BIGINT NOT NULL);

INSERT INTO ingest_commits (commits)
SELECT 0 AS commits
WHERE NOT EXISTS (SELECT commits FROM ingest_commits);

CREATE TABLE IF NOT EXISTS event_rejects (
    epoch VARCHAR NOT NULL,
    kafka_topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    kafka_offset BIGINT NOT NULL,
    kafka_time TIMESTAMP,
    reason VARCHAR NOT NULL,
    original BINARY,
    rejected_at TIMESTAMP NOT NULL
);
