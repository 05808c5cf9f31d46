"""The names and values by which `churn map suggest` recognizes what a bank's fields mean, in a few languages.

A list is a hint, never a rule: the user checks what is suggested. What codes mean is `Codes` of `rules`.
"""

# By field of the contract, names that banks give it: lower case, without accents, words joined by _.
NAMES: dict[str, str] = {
    "transaction_ref": (
        "transaction_id txn_id tx_id trans_id trx_id booking_id posting_id reference entry_ref belegnr "
        "belegnummer buchungsnr buchungs_id umsatz_id umsatznr reference_operation id_operation "
        "numero_operacion id_movimiento id_transacao id"
    ),
    "account_id": (
        "account account_no account_number acct acct_id acct_no acct_num iban konto kontonr kontonummer "
        "konto_id numero_compte compte id_compte cuenta numero_cuenta id_cuenta conto rekening conta"
    ),
    "customer_id": (
        "customer customer_no customer_number cust_id cust_no client client_id client_no clientnum user_id "
        "party_id cif kunde kunden_id kundennr kundennummer id_client numero_client cliente id_cliente "
        "cliente_id klant klantnummer"
    ),
    "posting_date": (
        "transaction_date txn_date trans_date date booking_date booked_at posted_at value_date timestamp "
        "created_at datum buchungstag buchungsdatum buchung_am valuta date_operation date_comptable fecha "
        "fecha_operacion data data_operazione"
    ),
    "transaction_code": (
        "transaction_type txn_type trans_type type code operation category booking_code buchungsart "
        "buchungsschluessel buchungscode textschluessel art umsatzart type_operation code_operation tipo "
        "tipo_movimiento tipo_operacion"
    ),
    "amount": (
        "amt value sum transaction_amount txn_amount betrag umsatz summe wert montant importe monto importo "
        "bedrag valor"
    ),
    "channel_id": "channel kanal canal source origin medium device_type",
    "merchant": (
        "merchant_name payee counterparty shop haendler empfaenger zahlungsempfaenger commercant beneficiaire comercio"
    ),
    "log_id": "event_id activity_id action_id id uuid",
    "event_type": "event action activity type name ereignis aktion evenement accion",
    "event_timestamp": (
        "timestamp event_time time ts created_at occurred_at datetime zeit zeitpunkt zeitstempel fecha_hora horodatage"
    ),
    "error_code": "error err_code fehler fehlercode code_erreur codigo_error status_code",
    "device": "device_type platform os client_type geraet appareil dispositivo",
    "full_name": (
        "name customer_name client_name fullname kundenname surname nom nom_complet nombre nombre_completo nome"
    ),
    "email": "e_mail mail email_address mailadresse courriel correo",
    "segment": "customer_segment client_segment tier category kundensegment segmento card_category attrition_segment",
    "join_date": (
        "joined customer_since since member_since onboarding_date start_date kunde_seit eintritt "
        "eintrittsdatum beginn date_entree client_depuis fecha_alta cliente_desde"
    ),
    "risk_profile_score": "risk_score risk credit_risk pd risiko risikoklasse score_risque",
    "email_consent": (
        "consent marketing_consent opt_in newsletter werbeeinwilligung einwilligung consentement consentimiento"
    ),
    "updated_at": (
        "last_update last_updated modified_at changed_at update_date geaendert geaendert_am aenderungsdatum "
        "stand ts_ms date_maj fecha_actualizacion"
    ),
    "product_code": (
        "product product_type typ type account_type produkt produktart kontoart produit type_compte producto tipo_cuenta"
    ),
    "available_balance": "balance saldo kontostand current_balance ledger_balance solde saldo_disponible",
    "account_status": "status state account_state kontostatus zustand statut etat estado stato",
    "opened_at": (
        "open_date opening_date opened date_opened eroeffnet eroeffnet_am eroeffnungsdatum eroeffnung "
        "date_ouverture fecha_apertura"
    ),
    "closed_at": (
        "close_date closing_date closed date_closed geschlossen geschlossen_am schliessung aufloesung "
        "date_cloture fecha_cierre"
    ),
    "case_id": (
        "ticket_id complaint_id ticket id case_number ticketnr vorgangsnr fallnummer numero_dossier id_reclamation"
    ),
    "open_timestamp": (
        "opened_at created_at date_received received date open_date eroeffnet eingang datum date_ouverture fecha"
    ),
    "category": "issue product type topic subject kategorie thema categorie categoria",
    "sentiment_score": "sentiment tone polarity stimmung tonalite",
    "case_text": (
        "text description complaint narrative consumer_complaint_narrative body message note beschreibung "
        "nachricht texte"
    ),
    "score_id": "id scoring_id prediction_id",
    "scored_at": "timestamp predicted_at score_time created_at date",
    "churn_score": "score probability churn_probability prediction p_churn",
    "declines": "declined decline_count",
    "spend": "spending total_spend",
}

# By ledger, words in the names of topics and files that feed it.
LEDGERS: dict[str, str] = {
    "fact_transaction_ledger": "trans txn umsatz umsaetz buchung posting booking payment movimiento operation mouvement",
    "app_activity_logs": "activity log event session click aktivitaet",
    "dim_customers": "customer client kunde kundn party cliente",
    "dim_accounts": "account konto konten compte cuenta",
    "support_cases": "case ticket complaint support beschwerde reclam",
    "churn_scores_raw": "score prediction",
}

# Their codes that can be told, by ours. Those of postings and accounts are defaults of `rules`, which say what they mean.
CODES: dict[str, dict[str, str]] = {
    "transaction_code": {
        "POS": "pos card card_purchase purchase kartenzahlung karte ka kauf achat paiement_cb compra tarjeta",
        "ATM": (
            "atm cash cash_withdrawal withdrawal withdraw geldautomat ga barauszahlung auszahlung bargeld "
            "retrait vyber retiro"
        ),
        "BILL_PAY": (
            "bill_pay bill direct_debit dd debit lastschrift ls dauerauftrag da standing_order sipo "
            "prelevement recibo domiciliacion"
        ),
        "WIRE_OUT": (
            "wire_out wire transfer_out outgoing_transfer ueberweisung ue uw virement_emis "
            "auslandsueberweisung azv prevod_na_ucet transferencia remittance"
        ),
        "FEE": "fee fees charge charges gebuehr gebuehren entgelt ent frais commission sluzby comision",
        "REVERSAL": (
            "reversal reversed chargeback storno sto rueckbuchung rueckerstattung annulation remboursement "
            "anulacion devolucion"
        ),
        "DEPOSIT": (
            "deposit cash_in credit salary payroll interest einzahlung gutschrift gs gehalt lohn zins zinsen depot versement "
            "interets vklad urok deposito abono nomina intereses"
        ),
        "WIRE_IN": "wire_in transfer_in incoming_transfer eingang virement_recu prevod_z_uctu",
    },
    "account_status": {
        "OPEN": "open o active a aktiv act offen ouvert actif abierta activa activo 1 y yes",
        "CLOSED": (
            "closed c close z inactive i geschlossen aufgeloest geloescht gekuendigt ferme cloture cerrada "
            "cerrado x 0 n no"
        ),
    },
    "email_consent": {
        "true": "j ja y yes t true 1 oui si",
        "false": "n nein no f false 0 non",
    },
    "device": {
        "IOS": "ios iphone ipad",
        "ANDROID": "android",
        "WEB": "web browser desktop",
    },
}

# Patterns of times, the usual ones first.
DATE_FORMATS = (
    "%Y-%m-%d %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%d-%b-%Y",
    "%d %b %Y",
    "%b %d, %Y",
    "%d.%m.%y",
    "%d/%m/%y",
    "%m/%d/%y",
    "%y%m%d",
)
