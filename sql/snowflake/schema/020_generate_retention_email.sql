-- Asks Cortex for one email. The answer is AI_COMPLETE's object of value and error: without return_error_details an
-- error would be NULL. It is not checked here. No address, id, account or score is given to the model; name, segment
-- and reasons are data between two markers, in which nothing can end the marked part. What cannot be a name is not
-- shown to it. It may promise the offers for the customer's reasons, the general one last.
CREATE OR REPLACE PROCEDURE generate_retention_email(full_name VARCHAR, segment VARCHAR, reason_codes VARCHAR)
RETURNS VARIANT
LANGUAGE SQL
EXECUTE AS OWNER
AS
$$
BEGIN
    LET offers VARCHAR := (SELECT {{ offers }});
    LET customer VARCHAR := (
        SELECT
            REPLACE(
                REPLACE(
                    TO_JSON(
                        OBJECT_CONSTRUCT(
                            'full_name', {{ addressee }},
                            'segment', :segment,
                            'reasons', SPLIT(COALESCE(:reason_codes, ''), '; ')
                        )
                    ),
                    '<',
                    '\\u003c'
                ),
                '>',
                '\\u003e'
            )
    );
    LET answer VARIANT := (SELECT
        AI_COMPLETE(
            model => {{ writer_model }},
            prompt => {{ email_rules }} || '\n\n' || {{ before_customer }} || :customer || {{ after_customer }},
            model_parameters => {'temperature': {{ temperature }}, 'max_tokens': {{ max_answer_tokens }}},
            show_details => TRUE,
            return_error_details => TRUE
        )
    );
    RETURN answer;
END;
$$;
