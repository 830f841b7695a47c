CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.annotation_version (
    id bigint NOT NULL,
    annotation_id integer NOT NULL,
    project_id integer NOT NULL,
    task_id integer NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    seen_at timestamp with time zone NOT NULL,
    source character varying(16) NOT NULL,
    deleted boolean NOT NULL,
    content_hash character varying(64) NOT NULL,
    project_created bigint DEFAULT '0'::bigint NOT NULL,
    ordered_at timestamp with time zone DEFAULT now() NOT NULL
);
CREATE SEQUENCE public.annotation_version_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.annotation_version_id_seq OWNED BY public.annotation_version.id;
CREATE TABLE public.candidate (
    id bigint NOT NULL,
    request_id bigint NOT NULL,
    rank integer NOT NULL,
    region_id character varying(64) NOT NULL,
    score double precision NOT NULL,
    coco_rle json NOT NULL,
    box_xywh json NOT NULL,
    predicted_iou double precision NOT NULL,
    stability_score double precision NOT NULL,
    source character varying(64) DEFAULT 'proposals'::character varying NOT NULL
);
CREATE SEQUENCE public.candidate_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.candidate_id_seq OWNED BY public.candidate.id;
CREATE TABLE public.event (
    id bigint NOT NULL,
    received_at timestamp with time zone NOT NULL,
    action character varying(64) NOT NULL,
    project_id integer,
    task_id integer,
    annotation_id integer,
    body text NOT NULL,
    state character varying(16) DEFAULT 'waiting'::character varying NOT NULL,
    processed_at timestamp with time zone,
    problem text,
    project_created bigint DEFAULT '0'::bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    last_request_id bigint,
    source character varying(16) DEFAULT 'webhook'::character varying NOT NULL,
    content_hash character varying(64)
);
CREATE SEQUENCE public.event_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.event_id_seq OWNED BY public.event.id;
CREATE TABLE public.record (
    id bigint NOT NULL,
    version_id bigint NOT NULL,
    annotation_id integer NOT NULL,
    project_id integer NOT NULL,
    task_id integer NOT NULL,
    decided_at timestamp with time zone NOT NULL,
    photo text NOT NULL,
    photo_sha256 character varying(64),
    height_px integer,
    width_px integer,
    expression text NOT NULL,
    typed_expression text,
    outcome character varying(32) NOT NULL,
    request_id bigint,
    candidate_id bigint,
    offered integer NOT NULL,
    rank integer,
    score double precision,
    iou double precision,
    first_iou double precision,
    coco_rle json,
    area_px integer,
    parts json NOT NULL,
    head_noun_phrase text,
    region_ids json NOT NULL,
    dabs integer NOT NULL,
    annotator character varying(200),
    seconds double precision,
    model_version character varying(200),
    latency_ms double precision,
    notes json NOT NULL,
    clicks integer DEFAULT 0 NOT NULL,
    project_created bigint DEFAULT '0'::bigint NOT NULL,
    source character varying(64),
    provenance character varying(16) DEFAULT 'typed'::character varying NOT NULL
);
CREATE SEQUENCE public.record_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.record_id_seq OWNED BY public.record.id;
CREATE TABLE public.request (
    id bigint NOT NULL,
    created_at timestamp with time zone NOT NULL,
    project_id integer NOT NULL,
    task_id integer NOT NULL,
    expression text NOT NULL,
    k integer NOT NULL,
    photo text NOT NULL,
    photo_sha256 character varying(64),
    status character varying(16) NOT NULL,
    answered_at timestamp with time zone,
    latency_ms double precision,
    model_version character varying(200),
    head_noun_phrase text,
    height_px integer,
    width_px integer,
    from_cache boolean,
    timings json,
    notices json,
    error_code character varying(64),
    error_text text,
    kind character varying(16) DEFAULT 'typed'::character varying NOT NULL,
    clicks integer DEFAULT 0 NOT NULL,
    click_ids json,
    confidence double precision,
    project_created bigint DEFAULT '0'::bigint NOT NULL
);
CREATE SEQUENCE public.request_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.request_id_seq OWNED BY public.request.id;
CREATE TABLE public.sync_run (
    id bigint NOT NULL,
    project_id integer NOT NULL,
    started_at timestamp with time zone NOT NULL,
    finished_at timestamp with time zone,
    next_page integer NOT NULL,
    seen json NOT NULL,
    counts json NOT NULL,
    project_created bigint DEFAULT '0'::bigint NOT NULL
);
CREATE SEQUENCE public.sync_run_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.sync_run_id_seq OWNED BY public.sync_run.id;
CREATE TABLE public.verification (
    id bigint NOT NULL,
    record_id bigint NOT NULL,
    project_id integer NOT NULL,
    annotation_id integer NOT NULL,
    verifier character varying(200),
    verdict character varying(16) NOT NULL,
    decided_at timestamp with time zone NOT NULL
);
CREATE SEQUENCE public.verification_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.verification_id_seq OWNED BY public.verification.id;
ALTER TABLE ONLY public.annotation_version ALTER COLUMN id SET DEFAULT nextval('public.annotation_version_id_seq'::regclass);
ALTER TABLE ONLY public.candidate ALTER COLUMN id SET DEFAULT nextval('public.candidate_id_seq'::regclass);
ALTER TABLE ONLY public.event ALTER COLUMN id SET DEFAULT nextval('public.event_id_seq'::regclass);
ALTER TABLE ONLY public.record ALTER COLUMN id SET DEFAULT nextval('public.record_id_seq'::regclass);
ALTER TABLE ONLY public.request ALTER COLUMN id SET DEFAULT nextval('public.request_id_seq'::regclass);
ALTER TABLE ONLY public.sync_run ALTER COLUMN id SET DEFAULT nextval('public.sync_run_id_seq'::regclass);
ALTER TABLE ONLY public.verification ALTER COLUMN id SET DEFAULT nextval('public.verification_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0007');
INSERT INTO public.annotation_version VALUES (1, 1, 7, 1, '2026-11-25 08:24:22.871205+00', '2026-11-25 07:24:22.952762+00', 'webhook', false, '19e0f08b4c7a90eb3dac18158987ba69472b598ad0f5e0aacef58563059b8af5', 0, '2026-11-25 07:24:22.952762+00');
INSERT INTO public.annotation_version VALUES (2, 2, 7, 2, '2026-11-25 08:24:22.871205+00', '2026-11-25 07:24:22.968363+00', 'webhook', false, '7a7ccd60c797a6896b8fa1b38930dffc4155a7c36bfc4a42f7d1088a72f832d8', 0, '2026-11-25 07:24:22.968363+00');
INSERT INTO public.annotation_version VALUES (3, 3, 7, 3, '2026-11-25 08:24:22.871205+00', '2026-11-25 07:24:22.975801+00', 'webhook', false, 'f3114b2349cd6fb2f427de698a9d5ccccd82df060046236543ada267c58dadef', 0, '2026-11-25 07:24:22.975801+00');
INSERT INTO public.candidate VALUES (1, 1, 1, 'sm1_1', 1, '{"size": [48, 64], "counts": "T6<T1000000000000000000000lW2"}', '[4, 4, 12, 12]', 0.9, 0.9, 'proposals');
INSERT INTO public.candidate VALUES (2, 1, 2, 'sm1_2', 0.5, '{"size": [48, 64], "counts": "TT1<T1000000000000000000000lY1"}', '[24, 4, 12, 12]', 0.9, 0.9, 'proposals');
INSERT INTO public.event VALUES (1, '2026-11-25 07:24:22.94416+00', 'ANNOTATION_CREATED', 7, 1, 1, '{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 1, "data": {"image": "/data/upload/1.png"}}, "annotation": {"id": 1, "result": [{"id": "sm1_2", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "prediction", "from_name": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 48, 0, 57, 27, 255, 4, 95, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 255, 32, 111, 0, 0], "brushlabels": ["top-2"]}}, {"id": "sm1_2", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "prediction", "from_name": "region_expression", "type": "textarea", "value": {"text": ["the cat"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}', 'understood', '2026-11-25 07:24:22.959193+00', NULL, 0, 0, NULL, 'webhook', NULL);
INSERT INTO public.event VALUES (2, '2026-11-25 07:24:22.945761+00', 'ANNOTATION_CREATED', 7, 2, 2, '{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 2, "data": {"image": "/data/upload/2.png"}}, "annotation": {"id": 2, "result": [{"id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea", "origin": "manual", "value": {"text": ["the dog"]}}, {"id": "own", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "manual", "from_name": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 48, 0, 57, 27, 255, 4, 119, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 255, 32, 87, 0, 0], "brushlabels": ["referent"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}', 'understood', '2026-11-25 07:24:22.969418+00', NULL, 0, 0, NULL, 'webhook', NULL);
INSERT INTO public.event VALUES (3, '2026-11-25 07:24:22.946634+00', 'ANNOTATION_CREATED', 7, 3, 3, '{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 3, "data": {"image": "/data/upload/3.png"}}, "annotation": {"id": 3, "result": [{"id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea", "origin": "manual", "value": {"text": ["the moon"]}}, {"id": "verdict", "from_name": "verdict", "to_name": "image", "type": "choices", "origin": "manual", "value": {"choices": ["no referent"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}', 'understood', '2026-11-25 07:24:22.976601+00', NULL, 0, 0, NULL, 'webhook', NULL);
INSERT INTO public.event VALUES (4, '2026-11-25 07:24:22.983854+00', 'ANNOTATION_CREATED', 7, 4, 4, '{"action": "ANNOTATION_CREATED", "project": {"id": 7, "label_config": "<View>\n  <Style>\n    .saymask-notice form, .saymask-notice [data-testid=htx-textbox-actions] { display: none; }\n    .saymask-notice [data-testid=textarea-regions] { margin-bottom: 4px !important; }\n    .saymask-notice:not(:has([data-testid=textarea-region]))::before { content: ''Type what you mean, press Enter: \"the cat lying on the scooter\u2019s seat\". Every further expression the same way.''; color: #808080; }\n    .lsf-main-content.lsf-requesting .saymask-notice [data-testid=textarea-regions] { display: none; }\n    .lsf-main-content.lsf-requesting .saymask-notice::before { content: ''Searching ...'' !important; color: #B35C00; }\n    .saymask-expression [data-testid=textarea-submit-section] { display: none !important; }\n    .saymask-expression [data-testid=textarea-regions] { display: flex; flex-wrap: wrap; gap: 4px; max-height: 84px; overflow-y: auto; margin: 4px 0 !important; }\n    .saymask-expression .lsf-row { margin: 0; }\n    .lsf-object [class*=filler--] { padding-bottom: 48px; }\n  </Style>\n  <View className=\"saymask-expression\">\n    <TextArea name=\"expression\" toName=\"image\" smart=\"true\" smartOnly=\"true\" editable=\"true\" rows=\"1\" showSubmitButton=\"true\" placeholder=\"What do you mean?\"/>\n  </View>\n  <View className=\"saymask-notice\">\n    <TextArea name=\"saymask_notice\" toName=\"image\" smart=\"false\" editable=\"false\" rows=\"1\" showSubmitButton=\"false\"/>\n  </View>\n  <Image name=\"image\" value=\"$image\" zoom=\"true\" zoomControl=\"true\" negativeZoom=\"true\" defaultZoom=\"auto\"/>\n  <BrushLabels name=\"mask\" toName=\"image\" smart=\"false\">\n    <Label value=\"top-1\" background=\"#E6194B\"/>\n    <Label value=\"top-2\" background=\"#3CB44B\"/>\n    <Label value=\"top-3\" background=\"#4363D8\"/>\n    <Label value=\"top-4\" background=\"#F58231\"/>\n    <Label value=\"top-5\" background=\"#911EB4\"/>\n    <Label value=\"referent\" background=\"#FFE119\"/>\n  </BrushLabels>\n  <KeyPoint name=\"click\" toName=\"image\" smart=\"true\" smartOnly=\"true\" fillColor=\"#00BCD4\" strokeColor=\"#00BCD4\"/>\n  <Rectangle name=\"box\" toName=\"image\" smart=\"true\" smartOnly=\"true\" strokeColor=\"#00BCD4\"/>\n  <TextArea name=\"region_expression\" toName=\"image\" perRegion=\"true\" smart=\"false\" editable=\"true\" rows=\"1\" maxSubmissions=\"1\" displayMode=\"region-list\" placeholder=\"expression of this region\"/>\n  <Choices name=\"verdict\" toName=\"image\" choice=\"single\" smart=\"false\" showInline=\"true\">\n    <Choice value=\"no referent\"/>\n    <Choice value=\"ambiguous\"/>\n  </Choices>\n</View>\n"}, "task": {"id": 4, "data": {"image": "/data/upload/4.png"}}, "annotation": {"id": 4, "result": [{"id": "typed", "from_name": "expression", "to_name": "image", "type": "textarea", "origin": "manual", "value": {"text": ["the tree"]}}, {"id": "own4", "to_name": "image", "original_width": 64, "original_height": 48, "image_rotation": 0, "origin": "manual", "from_name": "mask", "type": "brushlabels", "value": {"format": "rle", "rle": [0, 0, 48, 0, 57, 27, 255, 4, 31, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 254, 207, 0, 197, 255, 251, 60, 3, 23, 255, 236, 240, 12, 95, 255, 179, 192, 49, 127, 255, 32, 175, 0, 0], "brushlabels": ["referent"]}}], "was_cancelled": false, "lead_time": 12.0, "completed_by": 1, "updated_at": "2026-11-25T08:24:22.871205+00:00"}}', 'waiting', NULL, NULL, 0, 0, NULL, 'webhook', NULL);
INSERT INTO public.record VALUES (1, 1, 1, 7, 1, '2026-11-25 08:24:22.871205+00', '/data/upload/1.png', '0000000000000000000000000000000000000000000000000000000000000001', 48, 64, 'the cat', 'the cat', 'accepted', 1, 2, 2, 2, 0.5, 1, 0, '{"size": [48, 64], "counts": "TT1<T1000000000000000000000lY1"}', 144, '[]', NULL, '["sm1_2"]', 0, '1', 12, 'saymask-test', 40, '[]', 0, 0, 'proposals', 'typed');
INSERT INTO public.record VALUES (2, 2, 2, 7, 2, '2026-11-25 08:24:22.871205+00', '/data/upload/2.png', NULL, 48, 64, 'the dog', 'the dog', 'drawn', NULL, NULL, 0, NULL, NULL, NULL, NULL, '{"size": [48, 64], "counts": "T]1<T1000000000000000000000lP1"}', 144, '[]', NULL, '["own"]', 0, '1', 12, NULL, NULL, '[]', 0, 0, NULL, 'typed');
INSERT INTO public.record VALUES (3, 3, 3, 7, 3, '2026-11-25 08:24:22.871205+00', '/data/upload/3.png', NULL, NULL, NULL, 'the moon', 'the moon', 'no_referent', NULL, NULL, 0, NULL, NULL, NULL, NULL, 'null', NULL, '[]', NULL, '[]', 0, '1', 12, NULL, NULL, '[]', 0, 0, NULL, 'typed');
INSERT INTO public.request VALUES (1, '2026-11-25 07:24:22.927151+00', 7, 1, 'the cat', 2, '/data/upload/1.png', '0000000000000000000000000000000000000000000000000000000000000001', 'answered', '2026-11-25 07:24:22.94097+00', 40, 'saymask-test', NULL, 48, 64, true, '{"decode_ms": 0.0, "proposals_ms": 0.0, "visual_features_ms": 0.0, "language_ms": 0.0, "text_features_ms": 0.0, "scoring_ms": 0.0, "refine_ms": 0.0}', '[]', NULL, NULL, 'typed', 0, '[]', NULL, 0);
SELECT pg_catalog.setval('public.annotation_version_id_seq', 3, true);
SELECT pg_catalog.setval('public.candidate_id_seq', 2, true);
SELECT pg_catalog.setval('public.event_id_seq', 4, true);
SELECT pg_catalog.setval('public.record_id_seq', 3, true);
SELECT pg_catalog.setval('public.request_id_seq', 1, true);
SELECT pg_catalog.setval('public.sync_run_id_seq', 1, true);
SELECT pg_catalog.setval('public.verification_id_seq', 1, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.annotation_version
    ADD CONSTRAINT annotation_version_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.candidate
    ADD CONSTRAINT candidate_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.candidate
    ADD CONSTRAINT candidate_region_id_key UNIQUE (region_id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.record
    ADD CONSTRAINT record_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.request
    ADD CONSTRAINT request_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.sync_run
    ADD CONSTRAINT sync_run_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.annotation_version
    ADD CONSTRAINT uq_annotation_version_content UNIQUE (project_id, project_created, annotation_id, updated_at, content_hash, ordered_at);
ALTER TABLE ONLY public.verification
    ADD CONSTRAINT uq_verification_annotation UNIQUE (project_id, annotation_id);
ALTER TABLE ONLY public.verification
    ADD CONSTRAINT verification_pkey PRIMARY KEY (id);
CREATE INDEX ix_annotation_version_annotation_id ON public.annotation_version USING btree (annotation_id);
CREATE INDEX ix_annotation_version_project_id ON public.annotation_version USING btree (project_id);
CREATE INDEX ix_annotation_version_task_id ON public.annotation_version USING btree (task_id);
CREATE INDEX ix_candidate_request_id ON public.candidate USING btree (request_id);
CREATE INDEX ix_event_action ON public.event USING btree (action);
CREATE INDEX ix_event_annotation_id ON public.event USING btree (annotation_id);
CREATE INDEX ix_event_project_id ON public.event USING btree (project_id);
CREATE INDEX ix_event_received_at ON public.event USING btree (received_at);
CREATE INDEX ix_event_state ON public.event USING btree (state);
CREATE INDEX ix_event_task_id ON public.event USING btree (task_id);
CREATE INDEX ix_record_annotation_id ON public.record USING btree (annotation_id);
CREATE INDEX ix_record_annotator ON public.record USING btree (annotator);
CREATE INDEX ix_record_decided_at ON public.record USING btree (decided_at);
CREATE INDEX ix_record_outcome ON public.record USING btree (outcome);
CREATE INDEX ix_record_photo_sha256 ON public.record USING btree (photo_sha256);
CREATE INDEX ix_record_project_id ON public.record USING btree (project_id);
CREATE INDEX ix_record_request_id ON public.record USING btree (request_id);
CREATE INDEX ix_record_task_id ON public.record USING btree (task_id);
CREATE INDEX ix_record_version_id ON public.record USING btree (version_id);
CREATE INDEX ix_request_created_at ON public.request USING btree (created_at);
CREATE INDEX ix_request_photo_sha256 ON public.request USING btree (photo_sha256);
CREATE INDEX ix_request_project_id ON public.request USING btree (project_id);
CREATE INDEX ix_request_status ON public.request USING btree (status);
CREATE INDEX ix_request_task_id ON public.request USING btree (task_id);
CREATE INDEX ix_sync_run_project_id ON public.sync_run USING btree (project_id);
CREATE INDEX ix_verification_project_id ON public.verification USING btree (project_id);
CREATE INDEX ix_verification_record_id ON public.verification USING btree (record_id);
ALTER TABLE ONLY public.candidate
    ADD CONSTRAINT candidate_request_id_fkey FOREIGN KEY (request_id) REFERENCES public.request(id);
ALTER TABLE ONLY public.record
    ADD CONSTRAINT record_candidate_id_fkey FOREIGN KEY (candidate_id) REFERENCES public.candidate(id);
ALTER TABLE ONLY public.record
    ADD CONSTRAINT record_request_id_fkey FOREIGN KEY (request_id) REFERENCES public.request(id);
ALTER TABLE ONLY public.record
    ADD CONSTRAINT record_version_id_fkey FOREIGN KEY (version_id) REFERENCES public.annotation_version(id);
ALTER TABLE ONLY public.verification
    ADD CONSTRAINT verification_record_id_fkey FOREIGN KEY (record_id) REFERENCES public.record(id);
