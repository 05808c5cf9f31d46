-- How far each Kafka partition has been stored, and the messages that could not become rows.

-- committed_offset is the next offset to read. An epoch is one life of one topic: offsets of another mean nothing.
CREATE TABLE IF NOT EXISTS kafka_offsets (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    committed_offset BIGINT NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

-- One line for each range of messages; for a partition they follow one another without gap or overlap. The outcome is
-- STORED, or SKIPPED where Kafka no longer held the messages and CHURN_ON_GAP=skip let the ingestion go on. The
-- last two are Kafka's time stamps (when messages were produced, or appended where the topic says so), or NULL.
CREATE TABLE IF NOT EXISTS ingest_ranges (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    start_offset BIGINT NOT NULL,
    end_offset BIGINT NOT NULL,
    outcome VARCHAR NOT NULL,
    stored_at TIMESTAMP NOT NULL,
    oldest_message_at TIMESTAMP,
    newest_message_at TIMESTAMP
);

-- Messages that cannot be rows. For a row of a loaded file the epoch is 'file', kafka_topic the path and kafka_offset
-- the row's number. replayed_at says when the contract had come to accept the event and its row was stored after all.
CREATE TABLE IF NOT EXISTS event_rejects (
    epoch VARCHAR NOT NULL,
    kafka_topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    kafka_offset BIGINT NOT NULL,
    kafka_time TIMESTAMP,
    reason VARCHAR NOT NULL,
    original BINARY,
    rejected_at TIMESTAMP NOT NULL,
    replayed_at TIMESTAMP
);
