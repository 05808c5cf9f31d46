{#- Every row satisfies an SQL expression; one that makes it NULL does not. -#}
{% test holds(model, expression) %}
select *
from {{ model }}
where coalesce(not ({{ expression }}), true)
{% endtest %}
