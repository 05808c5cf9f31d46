{#- Every row satisfies an SQL expression; a row for which it is NULL fails. -#}
{% test holds(model, expression) %}
select *
from {{ model }}
where coalesce(not ({{ expression }}), true)
{% endtest %}
