-- How far each Kafka partition has been stored, and the messages that could not become rows.

-- committed_offset is the next offset to read. A topic that is created again gets a new epoch; offsets of another epoch
-- do not apply to it. leader_epoch counts the elections up to the leader under which the messages were read: where the
-- log before committed_offset is no longer that leader's, messages were lost.
CREATE TABLE IF NOT EXISTS kafka_offsets (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    committed_offset BIGINT NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    leader_epoch INTEGER
);

-- Messages that Kafka no longer has as they were, by partition and epoch. A gap stays open until somebody resolves it,
-- or CHURN_ON_GAP=skip does; churn_assets/ingestion/gaps.py says what each kind means. Of a topic that was created
-- again, nobody knows where the old one ended.
CREATE TABLE IF NOT EXISTS kafka_gaps (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    start_offset BIGINT NOT NULL,
    end_offset BIGINT,
    found_at TIMESTAMP NOT NULL,
    resolved_at TIMESTAMP,
    resolved_by VARCHAR,
    reason VARCHAR
);

-- One line for each range of messages; the ranges of a partition have no gap or overlap. The outcome is STORED, or
-- SKIPPED if Kafka no longer held the messages and the ingestion went on without them. LOST ranges do not count: they
-- were stored, then the cluster lost them, and what stands at their offsets now is read anew. The last two columns are
-- Kafka timestamps (when messages were produced, or appended if the topic is configured so), or NULL.
CREATE TABLE IF NOT EXISTS ingest_ranges (
    epoch VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kafka_partition INTEGER NOT NULL,
    start_offset BIGINT NOT NULL,
    end_offset BIGINT NOT NULL,
    outcome VARCHAR NOT NULL DEFAULT 'STORED',
    stored_at TIMESTAMP NOT NULL,
    oldest_message_at TIMESTAMP,
    newest_message_at TIMESTAMP
);

-- Messages that cannot become rows. For a row of a loaded file, the epoch is 'file', kafka_topic the path and
-- kafka_offset the row's number. replayed_at says when a replay accepted the event and stored its row.
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
