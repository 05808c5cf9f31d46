-- The semantic view of churn_assets/analyst/semantic_model.yaml. An existing one is replaced and keeps its grants. With
-- TRUE as a third argument, the call only verifies.
CALL SYSTEM$CREATE_SEMANTIC_VIEW_FROM_YAML('{{ database }}.{{ serving_schema }}', $$
{{ semantic_model }}$$);
