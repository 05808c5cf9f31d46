# Stands in for apache/kafka: its user, its folders, and the program that turns KAFKA_* into a configuration.
FROM churn-test/debian
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 appuser \
    && install -d -o appuser /var/lib/kafka /var/lib/kafka/data /opt/kafka/config /mnt/shared/config \
    && install -d /opt/kafka/bin /etc/kafka/docker \
    && touch /etc/kafka/docker/server.properties /etc/kafka/docker/log4j2.yaml /etc/kafka/docker/tools-log4j2.yaml \
    && printf '#!/bin/sh\nexec java -cp "/opt/kafka/libs/*" org.apache.kafka.tools.TopicCommand "$@"\n' > /opt/kafka/bin/kafka-topics.sh \
    && printf '%s\n' '#!/bin/sh -e' \
       'said=$(java -cp "/opt/kafka/libs/*" kafka.docker.KafkaDockerWrapper setup --default-configs-dir /etc/kafka/docker --mounted-configs-dir /mnt/shared/config --final-configs-dir /opt/kafka/config 2>&1) || echo "$said" | grep -q "already formatted" || { echo "$said"; exit 1; }' \
       'exec java $KAFKA_HEAP_OPTS -cp "/opt/kafka/libs/*" kafka.Kafka /opt/kafka/config/server.properties' > /etc/kafka/docker/run \
    && chmod 755 /opt/kafka/bin/kafka-topics.sh /etc/kafka/docker/run
COPY libs /opt/kafka/libs
USER appuser
VOLUME /var/lib/kafka/data
CMD ["/etc/kafka/docker/run"]
